"""A generation that is broken off and goes on from its state file: the same latents, bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import fit_picture
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.wan22_ti2v import Wan22TI2V
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent, as_png, load_pipeline
from tests.parallel.ranks import on_ranks

NUM_STEPS = 5
ALONE = ParallelLayout()
LAYOUTS = [ALONE, ParallelLayout.parse("u1r2"), ParallelLayout.parse("c2u1r1")]
by_name = pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=pytest.mark.slow if layout != ALONE else ()) for layout in LAYOUTS],
    ids=lambda layout: layout.name,
)


class Broken(Exception):
    """The end of a run at a step, as if its process had died there."""


class Watched(Silent):
    """Breaks a run off after a step, on all ranks alike; every step waits until the state of the last one is saved."""

    def __init__(self, break_after: int | None = None) -> None:
        self.saved: list[int] = []
        self.steps: list[int] = []
        self.state: StateFile | None = None
        self._break_after = break_after

    def state_saved(self, step: int) -> None:
        self.saved.append(step)

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self.steps.append(step)

    def check_cancelled(self, problem: Exception | None = None) -> None:
        if self.state is not None:
            self.state.wait()
        if self.steps and self.steps[-1] == self._break_after:
            raise Broken


def request_for(spec: ModelSpec, photograph: Path | None, **fields: object) -> VideoRequest:
    given = {"width": 64, "height": 96, "num_frames": 5, "num_inference_steps": NUM_STEPS, "seed": 3} | fields
    image = None if photograph is None else as_png(fit_picture(Image.open(photograph), 64, 96))
    return RequestDefaults().complete("a violin player", spec, image=image, negative_prompt="blurry", **given)


def control_of(mesh: ParallelMesh) -> Control:
    group = dist.group.WORLD if mesh.world.size > 1 else None
    return Control(group, mesh.world.rank, mesh.world.size)


def run(
    pipeline: Wan22TI2V, request: VideoRequest, folder: Path, mesh: ParallelMesh, events: Watched, keep: bool = True
) -> Tracer:
    """A run to latents in `folder`, which ends as `events` say; raises Broken."""
    tracer = Tracer(CPU, ResidentMeter(), events)
    path = folder / "state.safetensors"
    state = StateFile(path, 0.0, "this very job", "job", control_of(mesh), events) if keep else None
    events.state = state
    try:
        output = pipeline.make(request, folder / "latents.safetensors", "job", tracer, mesh, state)
    finally:
        if state is not None:
            state.wait()
    if output is not None:
        finish(output)
    return tracer


def latents_in(folder: Path) -> Tensor:
    return safetensors.torch.load_file(folder / "latents.safetensors")["latents"]


def on(layout: ParallelLayout, work: Callable[[ParallelMesh], None]) -> None:
    def checked(mesh: ParallelMesh) -> Tensor:
        work(mesh)
        return torch.zeros(1)

    if layout == ALONE:
        work(ParallelMesh.alone())
    else:
        on_ranks(layout, checked)


@pytest.mark.parametrize("with_image", [False, True], ids=["t2v", "i2v"])
@by_name
def test_what_goes_on_is_bitwise_what_never_stopped(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, layout: ParallelLayout, with_image: bool
) -> None:
    """Broken off after each of these steps, and taken up by other processes where there are several ranks."""
    pipeline = load_pipeline(tiny)
    request = request_for(spec, photograph if with_image else None)
    whole = tmp_path / "whole"
    folders = {step: tmp_path / str(step) for step in (1, 2, 4, NUM_STEPS)}
    for folder in (whole, *folders.values()):
        folder.mkdir()

    def begun(mesh: ParallelMesh) -> None:
        run(pipeline, request, whole, mesh, Watched(), keep=False)
        for step, folder in folders.items():
            events = Watched(step)
            with pytest.raises(Broken):
                run(pipeline, request, folder, mesh, events)
            assert events.saved == ([*range(step + 1)] if mesh.world.rank == 0 else [])

    def gone_on(mesh: ParallelMesh) -> None:
        for step, folder in folders.items():
            events = Watched()
            tracer = run(pipeline, request, folder, mesh, events)
            rest = [*range(step + 1, NUM_STEPS + 1)]
            assert (tracer.resumed_from_step, events.steps, len(tracer.step_seconds)) == (step, rest, len(rest))
            assert events.saved == (rest if mesh.world.rank == 0 else [])

    on(layout, begun)
    assert [path.parent for path in tmp_path.glob("*/latents.safetensors")] == [whole]
    on(layout, gone_on)
    for folder in folders.values():
        assert torch.equal(latents_in(folder), latents_in(whole))
        assert sorted(path.name for path in folder.iterdir()) == ["latents.safetensors", "state.safetensors"]


@pytest.fixture
def saved(tiny: Path, spec: ModelSpec, tmp_path: Path) -> Path:
    """A folder with the state of a run that was broken off after two steps."""
    with pytest.raises(Broken):
        run(load_pipeline(tiny), request_for(spec, None), tmp_path, ParallelMesh.alone(), Watched(2))
    return tmp_path


def test_the_slices_are_those_that_it_began_with(tiny: Path, spec: ModelSpec, saved: Path) -> None:
    """Speeds are measured anew by every group of ranks, and another number of slices rounds otherwise."""
    other = load_pipeline(tiny, num_slices=4)
    assert run(other, request_for(spec, None), saved, ParallelMesh.alone(), Watched()).num_slices == 1


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:middle],
            "a bit of a tensor": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "another step": content.replace(rb"step\": 2", rb"step\": 1"),
            "a header bomb": (2**62).to_bytes(8, "little") + content[8:],
            "no state": safetensors.torch.save({"latents": torch.zeros(1)}),
            "of another job": content.replace(b"this very job", b"that very job"),
        }[how]
    )
    assert path.read_bytes() != content


@pytest.mark.parametrize(
    "how", ["empty", "cut", "a bit of a tensor", "another step", "a header bomb", "no state", "of another job"]
)
def test_a_state_that_cannot_be_used_is_told_and_the_job_begins_anew(
    tiny: Path, spec: ModelSpec, saved: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    damage(saved / "state.safetensors", how)
    events = Watched()
    tracer = run(load_pipeline(tiny), request_for(spec, None), saved, ParallelMesh.alone(), events)
    assert tracer.resumed_from_step == 0
    assert events.steps == [*range(1, NUM_STEPS + 1)]
    assert "the job begins anew" in caplog.text
    assert events.saved == [*range(NUM_STEPS + 1)]


def test_a_state_that_cannot_be_saved_is_told_once_and_the_job_goes_on(
    tiny: Path, spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.safetensors").mkdir()
    events = Watched()
    tracer = run(load_pipeline(tiny), request_for(spec, None), tmp_path, ParallelMesh.alone(), events)
    assert len(tracer.step_seconds) == NUM_STEPS
    assert events.saved == []
    assert caplog.text.count("not saved") == 1
    assert not list(tmp_path.glob(".*"))


SCHEDULERS: dict[str, Any] = {
    "flow-match-euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm": DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=4.0),
    "unipc-order-3": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=7.0, solver_order=3
    ),
    "dpm-single": DPMSolverSinglestepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=4.0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_schedulers_remember_too_or_say_that_nothing_is_saved(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder, whole = tmp_path / "checkpoint", tmp_path / "whole"
    whole.mkdir()
    shutil.copytree(tiny, folder)
    SCHEDULERS[name].save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(SCHEDULERS[name]).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    pipeline, request = load_pipeline(folder), request_for(ModelSpec.read(folder), None)
    run(pipeline, request, whole, ParallelMesh.alone(), Watched(), keep=False)
    with pytest.raises(Broken):
        run(pipeline, request, tmp_path, ParallelMesh.alone(), Watched(3))
    tracer = run(pipeline, request, tmp_path, ParallelMesh.alone(), Watched())
    assert torch.equal(latents_in(tmp_path), latents_in(whole))
    is_known = name != "dpm-single"
    assert tracer.resumed_from_step == (3 if is_known else 0)
    assert (tmp_path / "state.safetensors").exists() == is_known
    assert ("cannot be resumed" in caplog.text) != is_known
