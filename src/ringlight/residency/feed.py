"""Feed: the parts of one network while a stage runs: those that stay on the device, and those that come for each pass.

A pass takes all parts in order. Those that stay come with the first pass, in the same order as the others, and are not
given back; the others come through a few slots, ahead of the computation. When the stage is over nothing is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ringlight.residency.lane import Lane, Wait
from ringlight.residency.part import WeightPart
from ringlight.residency.source import WeightSource

NUM_SLOTS = 3  # a block that is finished, the next one, of which data was sent ahead, and one that is on its way


@dataclass
class Held:
    """Bytes on the device, with what is on its way to them, and who still needs it."""

    flat: Tensor
    brought: Any = None
    num_done: int = 0


class Feed:
    """Weights of one network on a device that holds only some of them. To be closed when the stage ends."""

    def __init__(
        self, parts: Sequence[WeightPart], source: WeightSource, lane: Lane, kept: Collection[int], sharing: int = 1
    ) -> None:
        """Prepare the slots.

        `kept` are the indices of parts that stay. `sharing` computations go through each pass together, and each of
        them takes every part and is done with it.
        """
        self._parts, self._source, self._lane = parts, source, lane
        self._kept, self._sharing = frozenset(kept), sharing
        self._streamed_bytes = max((p.num_bytes for i, p in enumerate(parts) if i not in self._kept), default=0)
        self._num_slots = min(NUM_SLOTS, len(parts) - len(self._kept))
        self._there: dict[int, Held] = {}
        self._free: list[tuple[Tensor, Any]] = []
        self._num_made = 0
        self._next = 0
        self.num_bytes = 0
        self.waits: list[Wait] = []

    def close(self) -> None:
        """Free all memory of the device: the stage is over."""
        self._lane.settle()
        for index in self._there:
            self._parts[index].forget_layout()
        self._source.bind(self._parts)
        self._there.clear()
        self._free.clear()

    def take(self, index: int) -> None:
        """Wait until a part is on the device. The next one is on its way by then."""
        self._look_ahead()
        place = self._there[index]
        if place.brought is not None:
            self.waits.append(self._lane.wait(place.brought))
            place.brought = None
            self._parts[index].take_up(place.flat)

    def done(self, index: int) -> None:
        """Free a part's room for the next one, once all that share the pass are done with it."""
        place = self._there[index]
        place.num_done = (place.num_done + 1) % self._sharing
        if place.num_done or index in self._kept:
            return
        self._parts[index].forget_layout()
        self._free.append((self._there.pop(index).flat, self._lane.now()))
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Begin to bring what comes next, as far as there is room: parts that stay, no more of them than slots."""
        for _ in self._parts:
            part = self._parts[self._next]
            if self._next not in self._there:
                room = self._room_for(self._next)
                if room is None:
                    return
                flat, after = room
                brought = self._lane.bring(flat[: part.num_bytes], self._source.flat(part), after)
                self._there[self._next] = Held(flat, brought)
                self.num_bytes += part.num_bytes
            elif self._next not in self._kept:
                return  # of this pass; the next one's comes when it is done
            self._next = (self._next + 1) % len(self._parts)

    def _room_for(self, index: int) -> tuple[Tensor, Any] | None:
        """Room for a part, and since when it is free; None if there is none yet."""
        if index in self._kept:
            num_ahead = sum(place.brought is not None for place in self._there.values())
            if num_ahead >= NUM_SLOTS:
                return None
            return self._lane.room(self._parts[index].num_bytes), self._lane.now()
        if self._free:
            return self._free.pop(0)
        if self._num_made < self._num_slots:
            self._num_made += 1
            return self._lane.room(self._streamed_bytes), self._lane.now()
        return None


def spread(num_streamed: int, num_parts: int) -> frozenset[int]:
    """Indices of the parts that stay on the device.

    The `num_streamed` others are spread evenly, so that each has the same computation to hide under (docs/log.md).
    """
    streamed = {round(k * num_parts / num_streamed) for k in range(num_streamed)}
    return frozenset(range(num_parts)) - streamed
