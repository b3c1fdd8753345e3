"""A generation that is broken off and goes on from its state file: the same latents, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import fit_picture
from ringlight.core.plan import Abilities, JobPlan, Placement
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.parallel.mesh import ParallelMesh
from ringlight.planner.deciding import job_plan
from tests.ours import as_png, load_pipeline
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Broken, Watched, control_of, latents_in, run
from tests.planner.specs import machine
from tests.quick import first_quick

NUM_STEPS = 5
ALONE = ParallelLayout()
LAYOUTS = [ALONE, ParallelLayout.parse("u1r2"), ParallelLayout.parse("c2u1r1")]
by_name = pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=pytest.mark.slow if layout != ALONE else ()) for layout in LAYOUTS],
    ids=lambda layout: layout.name,
)


def request_for(spec: ModelSpec, photograph: Path | None, **fields: object) -> VideoRequest:
    given = {"width": 64, "height": 96, "num_frames": 5, "num_inference_steps": NUM_STEPS, "seed": 3} | fields
    image = None if photograph is None else as_png(fit_picture(Image.open(photograph), 64, 96))
    return RequestDefaults().complete("a violin player", spec, image=image, negative_prompt="blurry", **given)


def on(layout: ParallelLayout, work: Callable[[ParallelMesh], None]) -> None:
    def checked(mesh: ParallelMesh) -> Tensor:
        work(mesh)
        return torch.zeros(1)

    if layout == ALONE:
        work(ParallelMesh.alone())
    else:
        on_ranks(layout, checked)


@pytest.mark.parametrize("with_image", first_quick([True, False]), ids=["i2v", "t2v"])
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


def test_the_portions_are_those_that_it_began_with(tiny: Path, spec: ModelSpec, saved: Path) -> None:
    """The next server may plan otherwise, with other flags or speeds, and other portions round otherwise."""
    other = JobPlan(num_slices=4, decode_chunk=3)
    tracer = run(load_pipeline(tiny), request_for(spec, None), saved, ParallelMesh.alone(), Watched(), plan=other)
    assert (tracer.num_slices, tracer.decode_chunk) == (1, 1)


def test_frames_are_decoded_as_the_job_began_whatever_is_planned_now(
    tiny: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    pipeline = load_pipeline(tiny)
    request = request_for(spec, None, width=32, height=32, num_frames=9, num_inference_steps=2)

    def decoded(
        folder: str, decode_chunk: int, placement: Placement | None = None, **how: Any
    ) -> tuple[int, list[int]]:
        events, plan = Watched(**how), JobPlan(decode_chunk=decode_chunk, placement=placement)
        (tmp_path / folder).mkdir(exist_ok=True)
        tracer = run(pipeline, request, tmp_path / folder, ParallelMesh.alone(), events, output="frames.npy", plan=plan)
        return tracer.decode_chunk, events.decoded

    assert decoded("never stopped", 8) == (8, [1, 9])
    with pytest.raises(Broken):
        decoded("broken off", 8, break_after=1)
    state = (tmp_path / "broken off" / "state.safetensors").read_bytes()
    assert rb"\"decode_chunk\": 8" in state
    assert decoded("broken off", 1) == (8, [1, 9])
    frames = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/frames.npy")}
    assert frames["broken off"] == frames["never stopped"]
    assert decoded("broken off", 1, Placement()) == (1, [1, 5, 9]), "a budget that has room for no more is kept"


def test_ranks_tell_what_the_fullest_can_spare(tiny: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a plan, made once for all of them, decodes in the portions of that one."""
    pipeline, layout = load_pipeline(tiny), ParallelLayout.parse("u1r2")
    work = Work.of(spec, request_for(spec, None))
    card = machine("h100-sxm", "nvlink4")

    def told(mesh: ParallelMesh) -> Tensor:
        monkeypatch.setattr(pipeline, "spare_bytes", (2**24, 2**40)[mesh.world.rank])
        found = pipeline.measure(mesh.world, control_of(mesh))
        assert found.speeds is not None
        speeds = (found.speeds.link_bytes_per_second, found.speeds.flops_per_second)
        return torch.tensor([found.spare_bytes, *speeds], dtype=torch.float64)

    first, second = on_ranks(layout, told)
    assert torch.equal(first, second) and first[0] == 2**24 and min(first) > 0
    chunks = [
        job_plan(work, layout, msgspec.structs.replace(card, abilities=Abilities(spare_bytes=spare))).decode_chunk
        for spare in (2**24, 2**40)
    ]
    assert chunks == [2, 8]


def test_a_single_rank_measures_no_link(tiny: Path) -> None:
    alone = ParallelMesh.alone()
    assert load_pipeline(tiny).measure(alone.world, control_of(alone)) == Abilities(spare_bytes=0)


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
            "of the format before": content.replace(b'"4 this very job', b'"3 this very job'),
        }[how]
    )
    assert path.read_bytes() != content


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "cut",
        "a bit of a tensor",
        "another step",
        "a header bomb",
        "no state",
        "of another job",
        "of the format before",
    ],
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
