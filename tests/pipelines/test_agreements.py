"""Jobs that are broken off within a step, and what is made after them: the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ringlight.core.errors import Cancelled
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import VideoRequest
from ringlight.families.wan.networks.transformer import TransformerBlock
from ringlight.families.wan.recipe import WanRecipe
from ringlight.pipelines.agreements import Agreements
from ringlight.pipelines.trace import Tracer
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent, frames, load_pipeline
from tests.pipelines.test_placed import feed_late, placed, request_for, resident_frames

LAYERS, STEPS = 3, 2  # of the tiny demo checkpoint; of a request with guidance


class Blocks(Silent):
    """Counts the transformer's blocks, and cancels at the first boundary after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cancel_after: int) -> None:
        self.num_done, self._cancel_after = 0, cancel_after
        finish = TransformerBlock.finish_

        def counted(block: TransformerBlock, *arguments: Any) -> None:
            finish(block, *arguments)
            self.num_done += 1

        monkeypatch.setattr(TransformerBlock, "finish_", counted)

    def boundary(self, problem: Exception | None = None) -> None:
        super().boundary(problem)
        if self.num_done >= self._cancel_after:
            raise Cancelled("cancelled")


def computed(recipe: WanRecipe, request: VideoRequest, folder: Path, plan: JobPlan, cancel_after: int) -> int:
    """How many blocks are computed of a request that is cancelled after so many."""
    with pytest.MonkeyPatch.context() as patch:
        events = Blocks(patch, cancel_after)
        tracer = Tracer(CPU, ResidentMeter(), events)
        with pytest.raises(Cancelled):
            recipe.run(request, folder / "cancelled.npy", "cancelled", tracer, plan=plan)
    return events.num_done


def test_a_cancel_is_heard_after_so_many_blocks(tiny: Path, tmp_path: Path) -> None:
    """Else after the step, which is two forwards."""
    recipe = load_pipeline(tiny)

    def stops(num_blocks: int, take_turns: bool = False) -> list[int]:
        plan = JobPlan(blocks_per_agreement=num_blocks, take_turns=take_turns)
        return [computed(recipe, request_for(recipe), tmp_path, plan, after) for after in (1, 3, 5, 8, 9)]

    assert stops(0) == [6, 6, 6, 12, 12]
    assert stops(1) == [1, 4, 5, 8, 10]  # between two forwards nobody asks
    assert stops(3, take_turns=True) == [6, 6, 6, 8, 12]
    assert torch.equal(frames(recipe, request_for(recipe), tmp_path), resident_frames(tiny, None))


@pytest.mark.parametrize(("streamed", "take_turns"), [(LAYERS, True), pytest.param(1, False, marks=pytest.mark.slow)])
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


def test_a_gpu_always_has_the_blocks_since_the_last_agreement_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    device, events = Device(), Silent()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    asked: Callable[[], None] = lambda: device.told.append("asked")  # noqa: E731
    monkeypatch.setattr(events, "boundary", asked)
    between = Agreements(events, 2, torch.device("cuda"))
    for _ in range(6):
        between()
    assert device.told == ["told 1", "asked", "told 2", "done 1", "asked", "told 3", "done 2", "asked"]
