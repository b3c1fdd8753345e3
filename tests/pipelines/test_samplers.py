"""Every sampler that a checkpoint may name, those that draw noise above all: one seed, one video, on every layout,
resumed or not, and diffusers' own. `test_trial` proves that no scheduler is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.core.scheduler import SchedulerSpec
from ringlight.families.model import ModelSpec
from ringlight.families.wan import recipe
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.stages.timestep_preparation import prepare_timesteps
from ringlight.samplers.sampler import Sampler
from tests.oracle import load_oracle
from tests.ours import final_latents, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Broken, Watched, latents_in, run
from tests.samplers import NOISY, SAMPLERS, sampler_spec, with_sampler

LAYOUTS = ["u1r2", "u2r1", "c2u1r1"]
NUM_STEPS = 4
but_one_are_slow = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "lcm" else pytest.mark.slow) for name in SAMPLERS]
)
Work = Callable[[ParallelMesh], Tensor]


def make_request(spec: ModelSpec, seed: int = 3) -> VideoRequest:
    """The smallest that has a token for every rank and a band of rows: the samplers are what is tested here."""
    given = {"width": 64, "height": 64, "num_frames": 1, "num_inference_steps": NUM_STEPS, "guidance_scale": 3.0}
    return RequestDefaults().complete("a violin player", spec, seed=seed, negative_prompt="blurry", **given)


@but_one_are_slow
def test_the_latents_are_those_of_diffusers(tiny: Path, spec: ModelSpec, tmp_path: Path, name: str) -> None:
    scheduler = getattr(diffusers, SAMPLERS[name][0]).from_config(sampler_spec(name).config)
    theirs = load_oracle(tiny).latents(make_request(spec), scheduler=scheduler)
    ours = final_latents(with_sampler(load_pipeline(tiny), name), make_request(spec), tmp_path)
    assert (ours - theirs).abs().max() < 1e-4


@but_one_are_slow
def test_a_seed_is_a_video(tiny: Path, spec: ModelSpec, tmp_path: Path, name: str) -> None:
    pipeline = with_sampler(load_pipeline(tiny), name)
    once, again, other = (final_latents(pipeline, make_request(spec, seed), tmp_path) for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert (once - other).abs().max() > 0.1


@but_one_are_slow
def test_resumed_is_not_to_be_told_from_never_stopped(tiny: Path, spec: ModelSpec, tmp_path: Path, name: str) -> None:
    pipeline, request, alone = with_sampler(load_pipeline(tiny), name), make_request(spec), ParallelMesh.alone()
    (tmp_path / "whole").mkdir()
    whole = Watched()
    run(pipeline, request, tmp_path / "whole", alone, whole, keep=False)
    assert whole.steps == [*range(1, NUM_STEPS + 1)]
    for step in (1, 3):
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Broken):
            run(pipeline, request, folder, alone, Watched(step))
        events = Watched()
        tracer = run(pipeline, request, folder, alone, events)
        rest = [*range(step + 1, NUM_STEPS + 1)]
        assert (tracer.resumed_from_step, events.steps, len(tracer.step_seconds)) == (step, rest, len(rest))
        assert torch.equal(latents_in(folder), latents_in(tmp_path / "whole"))


@pytest.fixture(scope="module")
def alone(tiny: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The frames of every sampler, made by one rank."""
    folder, pipeline = tmp_path_factory.mktemp("alone"), load_pipeline(tiny)
    return {name: frames(with_sampler(pipeline, name), make_request(spec), folder) for name in SAMPLERS}


def every_sampler(tiny: Path, spec: ModelSpec, folder: Path, names: list[str]) -> Work:
    """Work for a rank: the frames of these samplers, which rank 0 writes."""

    def work(mesh: ParallelMesh) -> Tensor:
        for name in names:
            pipeline = with_sampler(load_pipeline(tiny), name)
            pipeline.run(make_request(spec), folder / f"{name}.npy", "job", new_tracer(), mesh)
        return torch.zeros(1)

    return work


def distances(folder: Path, alone: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    for path in folder.glob("*.npy"):
        yield path.stem, float((torch.from_numpy(np.load(path)) - alone[path.stem]).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_ranks_make_the_video_of_one(
    tiny: Path, spec: ModelSpec, tmp_path: Path, alone: dict[str, Tensor], layout: str
) -> None:
    on_ranks(ParallelLayout.parse(layout), every_sampler(tiny, spec, tmp_path, [*SAMPLERS]))
    off = dict(distances(tmp_path, alone))
    assert off.keys() == SAMPLERS.keys()
    assert {name: distance for name, distance in off.items() if not distance < 2e-5} == {}


@pytest.mark.slow
def test_a_planted_generator_of_each_rank_shows(
    tiny: Path, spec: ModelSpec, tmp_path: Path, alone: dict[str, Tensor]
) -> None:
    """A planted bug: the initial noise is everybody's, but that of the steps is seeded by the rank."""
    good = every_sampler(tiny, spec, tmp_path, ["unipc", *NOISY])

    def bad(mesh: ParallelMesh) -> Tensor:
        def by_rank(
            request: VideoRequest, spec: SchedulerSpec, generator: torch.Generator, device: torch.device
        ) -> Sampler:
            return prepare_timesteps(request, spec, torch.Generator().manual_seed(mesh.world.rank), device)

        recipe.prepare_timesteps = by_rank  # type: ignore[attr-defined]  # in a forked process, so that nobody need undo it
        return good(mesh)

    on_ranks(ParallelLayout.parse("u1r2"), bad)
    off = dict(distances(tmp_path, alone))
    assert off.pop("unipc") < 2e-5
    assert off.keys() == set(NOISY)
    assert min(off.values()) > 1e-3
