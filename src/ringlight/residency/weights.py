"""Weights: what a network asks before it computes with a part of itself, and says once it has."""

from __future__ import annotations

from typing import Protocol


class Weights(Protocol):
    """The parts of a network by their numbers, which it takes in order, again and again."""

    def take(self, index: int) -> None:
        """Wait until part `index` is where it is computed with."""

    def done(self, index: int) -> None:
        """Release the part until it is taken again: its room may be another part's from here on."""


class AlwaysThere:
    """Weights of a network that is on its device, all of it, all the time."""

    def take(self, index: int) -> None: ...

    def done(self, index: int) -> None: ...


ALWAYS_THERE = AlwaysThere()
