"""Samplers by name, presets of distilled models above all: their grids, and the latents beside loops by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from PIL import Image
from torch import Tensor

from ringlight.core.errors import InvalidRequest
from ringlight.core.layout import ParallelLayout
from ringlight.core.named_samplers import METHODS, PRESETS, SAMPLERS
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.stages import timestep_preparation
from ringlight.pipelines.stages.timestep_preparation import prepare_timesteps
from ringlight.pipelines.trial import CPU
from ringlight.samplers.euler import Euler
from ringlight.samplers.naming import SOLVERS, schedule_of
from ringlight.samplers.sampler import SolverSampler
from ringlight.samplers.schedule import Schedule, twice_shifted
from ringlight.samplers.unipc import UniPc
from tests.oracle import load_oracle
from tests.ours import final_latents, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Broken, Watched, latents_in, run
from tests.samplers import sampler_spec

SIZE = {"width": 64, "height": 64, "num_frames": 5}
GRIDS = {  # the sigmas, and what the network is told
    "lightx2v-4step": ((1, 0.9375, 0.8333333, 0.625), (1000, 937.5, 833.3333, 625)),
    "self-forcing-4step": ((1, 0.9375, 0.8333333, 0.625), (1000, 937.5, 833.3333, 625)),
    "fastwan-3step": ((1, 0.756757, 0.521739), (1000, 757, 522)),
    "turbo-4step": ((0.9876543, 0.9337811, 0.8528954, 0.6089791), (987.6543, 933.7811, 852.8954, 608.9791)),
    "turbo-i2v-4step": ((0.9950249, 0.9337811, 0.8528954, 0.6089791), (995.0249, 933.7811, 852.8954, 608.9791)),
}
RENOISE = GRIDS.keys() - {"lightx2v-4step"}
SCALES_NOISE = {"turbo-4step", "turbo-i2v-4step"}


def request_for(spec: ModelSpec, **given: Any) -> VideoRequest:
    return RequestDefaults().complete("a violin player", spec, **SIZE | {"seed": 3} | given)


def sampler_for(request: VideoRequest, spec: ModelSpec) -> SolverSampler:
    sampler = prepare_timesteps(request, spec.scheduler, torch.Generator().manual_seed(1), CPU)
    assert isinstance(sampler, SolverSampler)
    return sampler


def test_the_grids_are_those_that_models_were_distilled_on(spec: ModelSpec) -> None:
    assert GRIDS.keys() == set(PRESETS)
    for name, (sigmas, times) in GRIDS.items():
        request = request_for(spec, sampler=name)
        request.check(spec, RequestLimits())
        sampler = sampler_for(request, spec)
        assert sampler.sigmas.tolist() == pytest.approx([*sigmas, 0], abs=5e-7)
        assert sampler.timesteps.tolist() == pytest.approx(times, abs=5e-5)
        assert request.num_inference_steps == len(times) == Work.of(spec, request).num_calls
        assert (request.uses_guidance, request.flow_shift) == (False, SAMPLERS[name].flow_shift)


def test_sigmas_of_a_table_of_1000_are_the_nearest_to_what_fastwan_is_told() -> None:
    table = [8 * k / (1000 + 7 * k) for k in range(1, 1001)]
    nearest = [min(table, key=lambda sigma: abs(1000 * sigma - time)) for time in (1000, 757, 522)]
    assert nearest == pytest.approx(GRIDS["fastwan-3step"][0], abs=5e-7)


def test_turbo_counts_in_angles_of_a_trigonometric_flow() -> None:
    """sin / (sin + cos) of them, as rCM's own script has it in float64."""
    for name, tangent in (("turbo-4step", 80.0), ("turbo-i2v-4step", 200.0)):
        angles = torch.tensor([math.atan(tangent), 1.5, 1.4, 1.0], dtype=torch.float64)
        shares = angles.sin() / (angles.cos() + angles.sin())
        assert SAMPLERS[name].sigmas == pytest.approx(shares.tolist(), rel=1e-12)


def test_euler_by_name_makes_the_steps_of_the_preset_at_its_shift(spec: ModelSpec) -> None:
    """And not those of diffusers' own grid, whose last step does next to nothing."""
    named = sampler_for(request_for(spec, sampler="euler", num_inference_steps=4, flow_shift=5.0), spec)
    preset = sampler_for(request_for(spec, sampler="lightx2v-4step"), spec)
    assert torch.equal(named.sigmas, preset.sigmas)
    assert twice_shifted(4, 5.0) == pytest.approx([1, 0.9097, 0.7173, 0.0244], abs=5e-5)


@pytest.mark.parametrize("name", METHODS)
def test_sigmas_stand_in_the_place_of_any_grid(spec: ModelSpec, name: str) -> None:
    """They are taken as they are; with a flow shift beside them they are shifted once."""
    plain = sampler_for(request_for(spec, sampler=name, sigmas=[0.9, 0.6, 0.2]), spec)
    assert plain.sigmas.tolist() == pytest.approx([0.9, 0.6, 0.2, 0])
    shifted = sampler_for(request_for(spec, sampler=name, sigmas=[1, 0.75, 0.5, 0.25], flow_shift=5.0), spec)
    assert shifted.sigmas.tolist() == pytest.approx([*GRIDS["lightx2v-4step"][0], 0], abs=2e-6)
    assert (plain.num_steps, shifted.num_steps) == (3, 4)


@pytest.mark.parametrize("sampler", [None, "unipc", "dpm++", "fastwan-3step"])
def test_sigmas_alone_leave_the_method_as_it_is(spec: ModelSpec, sampler: str | None) -> None:
    request = request_for(spec, sampler=sampler, sigmas=[1, 0.5])
    request.check(spec, RequestLimits())
    solver = sampler_for(request, spec)._solver
    assert solver == SOLVERS[SAMPLERS[sampler or "unipc"].method]


def test_a_scheduler_of_diffusers_takes_no_sigmas_but_a_sampler_beside_them_does(spec: ModelSpec) -> None:
    foreign = sampler_spec("ltx")
    with pytest.raises(InvalidRequest, match=r"sigmas: .*LTXEulerAncestralRFScheduler.*name a sampler"):
        prepare_timesteps(request_for(spec, sigmas=[1, 0.5]), foreign, torch.Generator(), CPU)
    named = prepare_timesteps(request_for(spec, sigmas=[1, 0.5], sampler="dmd"), foreign, torch.Generator(), CPU)
    assert isinstance(named, SolverSampler)


def followed(step: Callable[[int, Tensor, Tensor], Tensor], times: Sequence[float]) -> Tensor:
    """Where a sampler ends with velocities that depend on the latents and are none of a simple flow."""
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(7))
    for call, time in enumerate(times):
        latents = step(call, torch.sin(3 * latents + time / 200) - latents / 4, latents)
    return latents


def of_diffusers(scheduler: Any, times: Sequence[float]) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def step(call: int, velocity: Tensor, latents: Tensor) -> Tensor:
        made: Tensor = scheduler.step(velocity, scheduler.timesteps[call], latents, generator=generator).prev_sample
        return made

    return followed(step, times)


def test_presets_go_the_way_of_diffusers_schedulers_that_are_told_their_grid(spec: ModelSpec) -> None:
    euler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    euler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    forced, fast = FlowMatchLCMScheduler(shift=5.0), FlowMatchLCMScheduler(shift=1.0)
    forced.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    fast.set_timesteps(sigmas=[1.0, 2240 / 2960, 960 / 1840], timesteps=[1000.0, 757.0, 522.0])
    theirs = {"lightx2v-4step": euler, "self-forcing-4step": forced, "fastwan-3step": fast}
    for name, scheduler in theirs.items():
        times = GRIDS[name][1]
        sampler = sampler_for(request_for(spec, sampler=name), spec)
        off = (followed(sampler.step, times) - of_diffusers(scheduler, times)).abs().max()
        assert off < 2e-6, name


def test_unipc_of_first_order_without_its_corrector_is_euler(spec: ModelSpec) -> None:
    request = request_for(spec, sampler="lightx2v-4step")
    first_order = UniPc(1, frozenset(range(4)))
    ends = []
    for solver in (first_order, Euler()):
        sampler = SolverSampler(solver, schedule_of(request, solver), 4, torch.Generator(), CPU)
        ends.append(followed(sampler.step, GRIDS["lightx2v-4step"][1]))
    assert (ends[0] - ends[1]).abs().max() < 2e-5


def by_hand(
    folder: Path, request: VideoRequest, spec: ModelSpec, name: str, picture: Image.Image | None = None
) -> Tensor:
    """Latents of a preset as a loop over diffusers' transformer has them, by the formulas alone."""
    oracle, generator = load_oracle(folder), torch.Generator().manual_seed(request.seed)
    latents = torch.randn(1, *spec.latent_shape(request.num_frames, request.height, request.width), generator=generator)
    text = oracle.t2v.encode_prompt(request.prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    first = None if picture is None else oracle.encode(torch.tensor(np.array(picture)[None] / 127.5 - 1).float())
    sigmas, times = GRIDS[name]
    latents *= sigmas[0] if name in SCALES_NOISE else 1
    told = torch.ones(latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2)
    if first is not None:
        told[0] = 0
    for sigma, after, time in zip(sigmas, [*sigmas[1:], 0], times, strict=True):
        if first is not None:
            latents = torch.cat([first[None], latents[:, :, 1:]], dim=2)
        velocity = oracle.t2v.transformer(latents, (time * told).view(1, -1), text, return_dict=False)[0]
        if name in RENOISE:
            noise = torch.randn(latents.shape, generator=generator)
            latents = (1 - after) * (latents - sigma * velocity) + after * noise
        else:
            latents = latents + (after - sigma) * velocity
    return latents if first is None else torch.cat([first[None], latents[:, :, 1:]], dim=2)


def a_picture() -> tuple[Image.Image, bytes]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return picture, file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "with_picture"), [*((name, False) for name in PRESETS), ("fastwan-3step", True)], ids=str
)
def test_few_steps_make_what_a_loop_by_hand_makes(
    tiny: Path, spec: ModelSpec, tmp_path: Path, name: str, with_picture: bool
) -> None:
    picture, content = a_picture() if with_picture else (None, None)
    request = request_for(spec, sampler=name, image=content)
    ours = final_latents(load_pipeline(tiny), request, tmp_path)
    assert (ours - by_hand(tiny, request, spec, name, picture)).abs().max() < 1e-4


def test_a_planted_second_shift_shows(
    tiny: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: the grid of diffusers' Euler, as a checkpoint's scheduler would have it."""

    def doubled(request: VideoRequest, solver: Euler) -> Schedule:
        return solver.schedule(twice_shifted(request.num_inference_steps, request.flow_shift))

    monkeypatch.setattr(timestep_preparation, "schedule_of", doubled)
    request = request_for(spec, sampler="lightx2v-4step")
    bad = final_latents(load_pipeline(tiny), request, tmp_path)
    assert (bad - by_hand(tiny, request, spec, "lightx2v-4step")).abs().max() > 0.05


def test_noise_of_the_steps_is_drawn_anew_after_a_resume(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    pipeline, request, alone = load_pipeline(tiny), request_for(spec, sampler="fastwan-3step"), ParallelMesh.alone()
    (tmp_path / "whole").mkdir()
    run(pipeline, request, tmp_path / "whole", alone, Watched(), keep=False)
    for step in (1, 2):
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Broken):
            run(pipeline, request, folder, alone, Watched(step))
        tracer = run(pipeline, request, folder, alone, Watched())
        assert tracer.resumed_from_step == step
        assert torch.equal(latents_in(folder), latents_in(tmp_path / "whole"))


@pytest.mark.slow
def test_two_ranks_make_the_video_of_one(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """All ranks on the one branch that there is, and all draw the same noise."""
    request = request_for(spec, sampler="fastwan-3step", num_frames=1)
    alone, path = frames(load_pipeline(tiny), request, tmp_path), tmp_path / "many.npy"

    def work(mesh: ParallelMesh) -> Tensor:
        load_pipeline(tiny).run(request, path, "job", new_tracer(), mesh)
        return torch.zeros(1)

    for layout in ("u1r2", "u2r1"):
        on_ranks(ParallelLayout.parse(layout), work)
        assert (torch.from_numpy(np.load(path)) - alone).abs().max() < 2e-5
