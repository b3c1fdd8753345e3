"""OnDemand: the parts of one network of which each comes when it is taken, whatever was taken before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ringlight.residency.lane import Lane, Wait
from ringlight.residency.part import WeightPart
from ringlight.residency.source import WeightSource


class OnDemand:
    """Weights of one network on a device that holds the part that is in use. To be closed when the stage ends.

    Nothing hides the copy, so this is for parts that compute far longer than they take to come.
    """

    def __init__(self, parts: Sequence[WeightPart], source: WeightSource, lane: Lane) -> None:
        self._parts, self._source, self._lane = parts, source, lane
        self._there: dict[int, Tensor] = {}
        self.num_bytes = 0
        self.waits: list[Wait] = []

    def close(self) -> None:
        """Free all memory of the device: the stage is over."""
        for index in list(self._there):
            self.done(index)
        self._lane.settle()

    def take(self, index: int) -> None:
        """Bring a part, unless it is there."""
        if index in self._there:
            return
        part = self._parts[index]
        flat = self._there[index] = self._lane.room(part.num_bytes)
        self.waits.append(self._lane.wait(self._lane.bring(flat, self._source.flat(part), self._lane.now())))
        self.num_bytes += part.num_bytes
        part.take_up(flat)

    def done(self, index: int) -> None:
        """Free the part."""
        part = self._parts[index]
        part.forget_layout()
        self._source.bind([part])
        del self._there[index]
