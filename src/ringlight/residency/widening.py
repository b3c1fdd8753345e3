"""Widening: weights in eight bits, widened while they are taken."""

from __future__ import annotations

from collections.abc import Sequence

from ringlight.residency.part import WeightPart
from ringlight.residency.weights import Weights


class Widening:
    """Weights of a network, of which those in eight bits are widened from `take` to `done`.

    To be closed when the stage ends.
    """

    def __init__(self, weights: Weights, parts: Sequence[WeightPart], sharing: int = 1) -> None:
        """Keep the weights.

        `sharing` computations go through each pass together, and each of them takes every part and is done with it.
        """
        self._weights, self._parts, self._sharing = weights, parts, sharing
        self._num_done: dict[int, int] = {}  # of what is widened

    def take(self, index: int) -> None:
        """Take a part, all of it as it is computed with."""
        self._weights.take(index)
        if index not in self._num_done:
            self._num_done[index] = 0
            self._parts[index].widen()

    def done(self, index: int) -> None:
        """Release a part: what was widened is freed once all that share the pass have released it."""
        if index in self._num_done:
            self._num_done[index] += 1
            if self._num_done[index] == self._sharing:
                self._narrow(index)
        self._weights.done(index)

    def close(self) -> None:
        """Free all widened weights."""
        for index in list(self._num_done):
            self._narrow(index)

    def _narrow(self, index: int) -> None:
        del self._num_done[index]
        self._parts[index].narrow()
