"""Jobs that are broken off within a step, and what is made after them: the same to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.errors import Cancelled
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import VideoRequest
from ringlight.families.wan.networks.transformer import TransformerBlock
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.agreements import Agreements
from ringlight.pipelines.output import finish
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.stages import timestep_preparation
from ringlight.pipelines.trace import Tracer
from ringlight.samplers.adapter import DiffusersSampler
from ringlight.samplers.choosing import make_sampler
from ringlight.samplers.sampler import Sampler
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent, final_latents, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Watched, control_of, latents_in, run
from tests.pipelines.test_placed import feed_late, placed, request_for, resident_frames
from tests.samplers import with_sampler

LAYERS, STEPS = 3, 2  # of the tiny demo checkpoint; of a request with guidance


class Blocks(Silent):
    """Counts the transformer's blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_done = 0
        finish = TransformerBlock.finish_

        def counted(block: TransformerBlock, *arguments: Any) -> None:
            finish(block, *arguments)
            self.num_done += 1

        monkeypatch.setattr(TransformerBlock, "finish_", counted)


class Cancelling(Blocks):
    """Cancels at the first boundary after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cancel_after: int) -> None:
        super().__init__(monkeypatch)
        self._cancel_after = cancel_after

    def boundary(self, problem: Exception | None = None) -> None:
        super().boundary(problem)
        if self.num_done >= self._cancel_after:
            raise Cancelled("cancelled")


class Breaking(Blocks):
    """Ends each turn at the first boundary after so many; after the last of these the job goes on to its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: list[int]) -> None:
        super().__init__(monkeypatch)
        self._turns = turns
        self.steps: list[int] = []
        self.saved: list[int] = []

    def begin_turn(self) -> None:
        self.num_done = 0
        self._ends_after = self._turns.pop(0) if self._turns else None

    def boundary(self, problem: Exception | None = None) -> None:
        super().boundary(problem)
        self.turn_ends = self.ends_now = self._ends_after is not None and self.num_done >= self._ends_after

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self.steps.append(step)

    def state_saved(self, step: int) -> None:
        self.saved.append(step)


def computed(recipe: WanRecipe, request: VideoRequest, folder: Path, plan: JobPlan, cancel_after: int) -> int:
    """How many blocks are computed of a request that is cancelled after so many."""
    with pytest.MonkeyPatch.context() as patch:
        events = Cancelling(patch, cancel_after)
        tracer = Tracer(CPU, ResidentMeter(), events)
        with pytest.raises(Cancelled):
            recipe.run(request, folder / "cancelled.npy", "cancelled", tracer, plan=plan)
    return events.num_done


def test_a_cancel_is_heard_after_so_many_blocks(tiny: Path, tmp_path: Path) -> None:
    """Else after the step, which is two forwards."""
    recipe = load_pipeline(tiny)

    def stops(num_blocks: int, take_turns: bool = False) -> list[int]:
        plan = JobPlan(blocks_per_agreement=num_blocks, take_turns=take_turns)
        return [computed(recipe, request_for(recipe), tmp_path, plan, after) for after in (3, 8, 9)]

    assert stops(0) == [6, 12, 12]
    assert stops(1) == [4, 8, 10]  # between two forwards nobody asks
    assert stops(3, take_turns=True) == [6, 8, 12]
    assert torch.equal(frames(recipe, request_for(recipe), tmp_path), resident_frames(tiny, None))


@pytest.mark.slow
@pytest.mark.parametrize(("streamed", "take_turns"), [(LAYERS, True), (1, False)])
def test_weights_that_come_are_given_back(tiny: Path, tmp_path: Path, streamed: int, take_turns: bool) -> None:
    """By a lane that is late, as a GPU's may be: the next job begins at the first part."""
    recipe = placed(tiny)
    placement = Placement(streamed_blocks=streamed, streams_decoder=True)
    plan = JobPlan(placement=placement, take_turns=take_turns, blocks_per_agreement=1)
    for lane in (None, feed_late(recipe)):
        for cancel_after in (1, 2 * LAYERS + 3):
            assert computed(recipe, request_for(recipe), tmp_path, plan, cancel_after) < 2 * LAYERS * STEPS
            assert lane is None or lane.live_bytes == 0
        made = frames(recipe, request_for(recipe), tmp_path, plan)
        assert torch.equal(made, resident_frames(tiny, None))


def made_in_turns(
    recipe: WanRecipe, request: VideoRequest, folder: Path, turns: list[int], plan: JobPlan, mesh: ParallelMesh
) -> tuple[Tracer, Breaking, list[int]]:
    """A job that is broken off after so many blocks of each turn, while others are made in between; and how many steps
    were done each time. What it saved last is left on the disk."""
    other = msgspec.structs.replace(request, num_frames=1, num_inference_steps=1, seed=8)
    with pytest.MonkeyPatch.context() as patch:
        events = Breaking(patch, turns)
        tracer = Tracer(CPU, ResidentMeter(), events)
        path = folder / "state.safetensors"
        state = StateFile(path, 1e9, "this very job", "job", control_of(mesh), tracer)
        making, left = recipe.make(request, folder / "broken.safetensors", "job", tracer, mesh, plan, state), []
        while True:
            events.begin_turn()
            try:
                left.append(next(making).step)
            except StopIteration as end:
                if end.value is not None:
                    finish(end.value)
                state.wait()  # which may still write the last one
                return tracer, events, left
            recipe.run(other, folder / "other.safetensors", "other", new_tracer(), mesh, plan)
            if mesh.world.rank == 0:
                state.wait()
                shutil.copy(path, folder / "left.safetensors")


@pytest.mark.parametrize(
    ("sampler", "make", "turns", "steps"),
    [
        ("heun", DiffusersSampler, [8, 20, 3], [0, 1, 2]),  # in the second of a step's two calls; once, and not again
        pytest.param("heun", make_sampler, [8, 20, 3], [0, 1, 2], marks=pytest.mark.slow),
        pytest.param("unipc", make_sampler, [1, 8, 8], [0, 1, 2], marks=pytest.mark.slow),
        pytest.param("dpm-sde", make_sampler, [8, 1, 9], [1, 2, 3], marks=pytest.mark.slow),  # draws noise
    ],
)
def test_a_step_that_is_broken_off_is_made_again(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    make: Callable[..., Sampler],
    turns: list[int],
    steps: list[int],
) -> None:
    """To the bit, here and where another process goes on from what was saved. Once: then the turn ends after it."""
    monkeypatch.setattr(timestep_preparation, "make_sampler", make)
    recipe, alone = with_sampler(load_pipeline(tiny), sampler), ParallelMesh.alone()
    request, plan = request_for(recipe, num_inference_steps=4), JobPlan(blocks_per_agreement=1)
    expected = final_latents(recipe, request, tmp_path)
    tracer, events, left = made_in_turns(recipe, request, tmp_path, turns, plan, alone)
    assert torch.equal(load_file(tmp_path / "broken.safetensors")["latents"], expected)
    assert left == steps and events.steps == [1, 2, 3, 4] and set(steps) <= set(events.saved)
    assert len(tracer.step_seconds) == 4 and tracer.repeated_seconds > 0
    (denoising,) = [stage for stage in tracer.stages if stage.name == "Denoising"]
    assert denoising.seconds > sum(tracer.step_seconds) + tracer.repeated_seconds
    (tmp_path / "left.safetensors").rename(tmp_path / "state.safetensors")
    assert run(recipe, request, tmp_path, alone, Watched()).resumed_from_step == steps[-1]
    assert torch.equal(latents_in(tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_slices", "take_turns"), [("u1r2", 3, False), ("u2r1", 2, True), ("c2u1r1", 1, False)]
)
def test_so_it_is_over_many_ranks(tiny: Path, tmp_path: Path, name: str, num_slices: int, take_turns: bool) -> None:
    recipe, layout = load_pipeline(tiny), ParallelLayout.parse(name)
    request = request_for(recipe, num_inference_steps=4)
    plan = JobPlan(num_slices=num_slices, take_turns=take_turns, blocks_per_agreement=1)

    def work(mesh: ParallelMesh) -> Tensor:
        recipe.run(request, tmp_path / "alone.safetensors", "job", new_tracer(), mesh, plan)
        *_, left = made_in_turns(recipe, request, tmp_path, [1, 2 * num_slices, 4 * num_slices], plan, mesh)
        return torch.tensor(left)

    every = on_ranks(layout, work)
    assert all(len(left) == 3 and torch.equal(left, every[0]) for left in every)
    broken, alone = (load_file(tmp_path / f"{name}.safetensors")["latents"] for name in ("broken", "alone"))
    assert torch.equal(broken, alone)


@pytest.mark.slow
def test_so_it_is_with_weights_that_come(tiny: Path, tmp_path: Path) -> None:
    """None of them stays while others have the turn."""
    recipe = placed(tiny)
    lane = feed_late(recipe)
    request = request_for(recipe, num_inference_steps=4)
    plan = JobPlan(placement=Placement(streamed_blocks=2), take_turns=True, blocks_per_agreement=1)
    made_in_turns(recipe, request, tmp_path, [1, 8, 4], plan, ParallelMesh.alone())
    assert lane.live_bytes == 0
    broken = load_file(tmp_path / "broken.safetensors")["latents"]
    assert torch.equal(broken, final_latents(load_pipeline(tiny), request, tmp_path))


class Device:
    """A GPU's events, by number, in the order in which they are recorded and waited for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._count = 0

    def event(self, blocking: bool) -> Event:
        self._count += 1
        return Event(self.told, self._count)


class Event:
    def __init__(self, told: list[str], number: int) -> None:
        self._told, self._number = told, number

    def record(self, stream: object) -> None:
        self._told.append(f"told {self._number}")

    def synchronize(self) -> None:
        self._told.append(f"done {self._number}")


@pytest.mark.parametrize(
    ("num_blocks", "told"),
    [
        (1, "told 1 done 1 asked told 2 done 2 asked told 3 done 3 asked told 4 done 4 asked"),
        (2, "told 1 told 2 done 1 asked told 3 told 4 done 3 asked"),
        (0, ""),
    ],
)
def test_a_gpu_has_done_all_but_the_last_block(monkeypatch: pytest.MonkeyPatch, num_blocks: int, told: str) -> None:
    """Where each is long that one too."""
    device, events = Device(), Silent()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    asked: Callable[[], None] = lambda: device.told.append("asked")  # noqa: E731
    monkeypatch.setattr(events, "boundary", asked)
    between = Agreements(events, num_blocks, torch.device("cuda"))
    for _ in range(4):
        between()
    assert " ".join(device.told) == told
