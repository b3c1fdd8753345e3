"""HostedStream: frames on their way through a decoder whose last levels keep their history in the host's memory.

Each convolution sees its history and its new frames in a window. What lies on the host lands in that window while the
convolution before computes, and what is new leaves it as soon as it is written. So two windows are alive at a time:
they stand at the two ends of one workspace, by turns. The convolutions come in an order that is said before they run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.wan.networks.causal import CausalConv, Stream
from ringlight.parallel.halo import Bands
from ringlight.residency.exchange import Arrival, Exchange


@dataclass
class Kept:
    """The last frames that a convolution has seen, on the host: the oldest first, `seen` of them true."""

    frames: list[Tensor]
    seen: int = 0

    @property
    def true(self) -> list[Tensor]:
        return self.frames[HISTORY - self.seen :]

    def follow(self, num_new: int) -> list[Tensor]:
        """Buffers of so many newer frames, which from now on are the last ones."""
        for _ in range(num_new):
            self.frames.append(self.frames.pop(0))
        self.seen = min(HISTORY, self.seen + num_new)
        return self.frames[HISTORY - num_new :]


@dataclass(frozen=True)
class PlacedWindow:
    """Window that is to be used: its part of the workspace, and when its history has come."""

    conv: CausalConv
    num_frames: int
    room: Tensor
    arrival: Arrival


class HostedStream(Stream):
    """Stream with the history of `hosted` on the host.

    Between `begin` and the next one exactly the announced convolutions run, in that order.
    """

    def __init__(
        self,
        convs: Sequence[CausalConv],
        hosted: Collection[CausalConv],
        bands: Bands,
        columns: int,
        like: Tensor,
        exchange: Exchange,
        max_elements: int = MAX_ELEMENTS,
        frames_at_once: int = 0,
    ) -> None:
        """Start a stream whose convolutions in `hosted` keep their history on the host."""
        on_device = [conv for conv in convs if conv not in hosted]
        super().__init__(on_device, bands, columns, like, False, max_elements, frames_at_once)
        self._exchange = exchange
        self._like = like
        self._kept = self._allocate_on_host([conv for conv in convs if conv in hosted])
        self._order: deque[tuple[CausalConv, int]] = deque()
        self._places: deque[PlacedWindow] = deque()
        self._num_placed = 0

    def begin(self, order: Sequence[tuple[CausalConv, int]]) -> None:
        """Announce the next convolutions and their numbers of frames."""
        assert not self._order and not self._places, "what was said before has not all run"
        self._order.extend(order)
        sizes = [math.prod(self._shape(conv, frames)) for conv, frames in order]
        size = max((a + b for a, b in pairwise(sizes)), default=max(sizes))
        if self._workspace is None or self._workspace.numel() < size:
            self._exchange.settle()
            self._workspace = None  # freed before the larger one is made
            self._workspace = self._like.new_empty(size)
        for _ in range(2):
            self._place_next()

    def window(self, conv: CausalConv, like: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """Window of a convolution, as in every stream, in the buffer that was prepared for it."""
        place = self._places[0]
        assert (conv, num_frames) == (place.conv, place.num_frames), "convolutions run in the order that was said"
        self._exchange.wait(place.arrival)
        if conv not in self._kept:
            return super().window(conv, like, num_frames)
        room, new = place.room, place.room[-num_frames:]
        if missing := len(room) - num_frames - self._kept[conv].seen:
            room[:missing].zero_()
        return (room if num_frames > 1 or self._fits(conv) else new), new

    def frames_before(self, conv: CausalConv) -> list[Tensor]:
        """The history of `conv`, which has landed before its window."""
        if conv not in self._kept:
            return super().frames_before(conv)
        return list(self._places[0].room[:HISTORY].split(1)) if self.has_history(conv) else []

    def written(self, conv: CausalConv, whole: Tensor) -> None:
        """Take the new frames of a window out, while they are convolved."""
        if conv in self._kept:
            new = whole[-min(self._places[0].num_frames, HISTORY) :]
            self._exchange.take(zip(self._kept[conv].follow(len(new)), new, strict=True))

    def keep(self, conv: CausalConv, whole: Tensor) -> None:
        """Free a window: the one after the next gets its end of the workspace."""
        if conv not in self._kept:
            super().keep(conv, whole)
        self._started.add(conv)
        self._places.popleft()
        self._place_next()

    def close(self) -> None:
        """Make what comes next on the device wait for all that is still under way."""
        self._exchange.settle()

    def _scratch(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        room = self._places[0].room
        return room.view(-1)[: math.prod(shape)].view(shape)

    def _place_next(self) -> None:
        """Prepare a buffer for the next convolution without one, and bring its history from the host there."""
        if not self._order:
            return
        conv, num_frames = self._order.popleft()
        assert all(place.conv is not conv for place in self._places), "its history is whole once it has run"
        assert self._workspace is not None
        shape = self._shape(conv, num_frames)
        size = math.prod(shape)
        self._num_placed += 1
        end = self._workspace[:size] if self._num_placed % 2 else self._workspace[-size:]
        room, history = end.view(shape), self._kept[conv].true if conv in self._kept else []
        copies = [(room[HISTORY - age : HISTORY - age + 1], frame) for age, frame in enumerate(reversed(history), 1)]
        self._places.append(PlacedWindow(conv, num_frames, room, self._exchange.bring(copies)))

    def _shape(self, conv: CausalConv, num_frames: int) -> tuple[int, ...]:
        """Shape of a window, or of history that stands before it on its own."""
        is_long = conv not in self._kept and not self._fits(conv)  # then it stays where it is
        is_alone = num_frames == 1 and (is_long or not self.has_history(conv))
        return (num_frames if is_alone else HISTORY + num_frames, *self._frame(conv))

    def _allocate_on_host(self, hosted: Sequence[CausalConv]) -> dict[CausalConv, Kept]:
        dtype, shapes = self._like.dtype, [(1, *self._frame(conv)) for conv in hosted]
        sizes = [size for shape in shapes for size in HISTORY * [math.prod(shape)]]
        frames = iter(self._exchange.host_room(sum(sizes) * dtype.itemsize).view(dtype).split(sizes))
        return {
            conv: Kept([next(frames).view(shape) for _ in range(HISTORY)])
            for conv, shape in zip(hosted, shapes, strict=True)
        }
