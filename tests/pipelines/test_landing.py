"""Frames on their way to a writer: in order, one portion late where a device computes, and none lost or overwritten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines import landing
from ringlight.pipelines.landing import Arriving, Landing, PinnedBuffers
from ringlight.pipelines.stages.decoding import Delivery

META = torch.device("meta")  # a device whose frames are not the host's


class Told:
    """A writer and a device's copies that write down what happens to them, by the number of frames in a portion."""

    def __init__(self, full_after: int | None = None) -> None:
        self.events: list[str] = []
        self._full_after = full_after

    def begin(self, frames: Tensor) -> Arriving:
        num_frames = len(frames)
        self.events.append(f"copy {num_frames}")

        def wait() -> Tensor:
            self.events.append(f"wait {num_frames}")
            return torch.zeros(num_frames)

        return wait

    def write(self, frames_FHWC: Tensor) -> None:
        if len([event for event in self.events if event.startswith("write")]) == self._full_after:
            raise OSError("no space left on device")
        self.events.append(f"write {len(frames_FHWC)}")

    def finish(self) -> list[str]:
        return []

    def abort(self) -> None: ...


def test_a_device_works_on_while_a_portion_is_written() -> None:
    told = Told()
    frames = Landing(told, told.begin)
    for num_frames in (1, 4, 3):
        frames.take(torch.empty(num_frames, device=META))
    assert told.events == ["copy 1", "copy 4", "wait 1", "write 1", "copy 3", "wait 4", "write 4"]
    frames.finish()
    frames.finish()  # nothing is left
    assert told.events[7:] == ["wait 3", "write 3"]


def test_on_a_cpu_a_portion_is_written_at_once() -> None:
    told = Told()
    frames = Landing(told, told.begin)
    for num_frames in (1, 4):
        frames.take(torch.empty(num_frames))
    frames.finish()
    assert told.events == ["write 1", "write 4"]


@pytest.mark.parametrize("full_after", [0, 1, 2])
def test_a_writer_that_fails_a_portion_late_is_the_deliverys_problem(
    monkeypatch: pytest.MonkeyPatch, full_after: int
) -> None:
    told = Told(full_after)
    monkeypatch.setattr(landing, "PinnedBuffers", lambda: told.begin)
    delivery = Delivery(told, Bands(2, ParallelMesh.alone().world), scale=16)
    found = []
    for num_frames in (1, 4, 3):
        delivery.take(torch.empty(num_frames, device=META))
        found.append(delivery.problem is not None)
    assert found == [False, full_after < 1, full_after < 2]
    delivery.finish()
    assert isinstance(delivery.problem, OSError)
    written = [event for event in told.events if event.startswith("write")]
    assert written == ["write 1", "write 4"][:full_after]


class Mark:
    """An event of a stream, as far as it is asked: a CPU has copied by the time that it says so."""

    def record(self, stream: Any) -> None: ...

    def synchronize(self) -> None: ...


def test_two_buffers_take_turns_and_nothing_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of every size; each is waited for while the next one is copied already, and kept for good."""
    made: list[Tensor] = []

    def pinned(size: int, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        assert pin_memory
        made.append(torch.zeros(size, dtype=dtype))
        return made[-1]

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    portions = [torch.full((size, 2, 2, 3), size, dtype=torch.uint8) for size in (1, 8, 8, 8, 8, 5)]
    buffers, arriving, kept = PinnedBuffers(), [], []
    for portion in portions:
        arriving.append(buffers(portion))
        if len(arriving) > 1:
            kept.append(arriving[-2]())
    kept.append(arriving[-1]())
    assert all(torch.equal(one, other) for one, other in zip(kept, portions, strict=True))
    assert [len(buffer) // 12 for buffer in made] == [1, 8, 8]
