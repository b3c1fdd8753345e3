"""Agreements of all ranks within a long step of denoising on whether to continue."""

from __future__ import annotations

import torch

from ringlight.parallel.collective import collective
from ringlight.pipelines.trace import JobEvents
from ringlight.pipelines.turn import TurnEnds


class Agreements:
    """Counter of transformer blocks, after every so many of which the ranks agree whether to continue.

    It is called on all ranks alike whenever one more block is done in a forward, or in both that alternate.

    A GPU is told of its work long before it does it. So each agreement waits until it has done all but the last block,
    which keeps it busy meanwhile; where ranks agree after each block, for each is long, that one too.

    A step is broken off for others at most once, so that a job comes on however many are more urgent.
    """

    def __init__(self, events: JobEvents, num_blocks: int, device: torch.device) -> None:
        """Count blocks; `num_blocks` lie between two agreements; 0: there are none."""
        self._events, self._num_blocks, self._device = events, num_blocks, device
        self._num_done = 0
        self._told: torch.cuda.Event | None = None
        self._has_broken_off = False

    def step_finished(self) -> None:
        """Begin another step."""
        self._has_broken_off = False

    @collective
    def __call__(self) -> None:
        """Count a block. Raises, on all ranks, what the boundary raises, and TurnEnds if the turn ends."""
        if not self._num_blocks:
            return
        self._num_done += 1
        before, self._told = self._told, self._tell()
        if self._num_done % self._num_blocks == 0:
            awaited = self._told if self._num_blocks == 1 else before
            if awaited is not None:
                awaited.synchronize()
            self._events.boundary()
            if self._events.ends_now and not self._has_broken_off:
                self._has_broken_off = True
                raise TurnEnds

    def _tell(self) -> torch.cuda.Event | None:
        """Event at which the device has done all its work so far; None on a CPU, which does it at once."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
