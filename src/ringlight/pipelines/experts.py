"""Experts: the networks of one request, of which one is at work at a time: which one follows from the time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from torch import Tensor

from ringlight.parallel.collective import collective


class Predictor(Protocol):
    """What predicts the velocity of latents. All ranks call it together."""

    def predict(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity (1, z, T, h, w), float32, at the times of the latents: one for all tokens, or two."""


class Experts:
    """A predictor of several, one for high noise and one for low, or the only one. To be closed in the end.

    One is brought when a time first asks for it, and given up when a time asks for another, so that no more than one
    has room on the device. Times fall, so each is brought once.
    """

    def __init__(self, bring: Callable[[int], AbstractContextManager[Predictor]], boundary: float) -> None:
        """`bring` has an expert at work, by its number; the first one is for times from the `boundary` on."""
        self._bring, self._boundary = bring, boundary
        self._number: int | None = None
        self._at_work: Predictor | None = None
        self._held = ExitStack()

    def have(self, time: float) -> Predictor:
        """The expert for a time, at work."""
        number = 0 if time >= self._boundary else 1
        if self._at_work is None or number != self._number:
            self.close()
            self._at_work, self._number = self._held.enter_context(self._bring(number)), number
        return self._at_work

    @collective
    def predict(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """As the expert for the last of these times predicts it; a first frame's comes before it."""
        guided = self.have(float(timesteps[-1]))
        return guided.predict(latents, timesteps)

    def close(self) -> None:
        """Give up the one that is at work."""
        self._at_work = None
        self._held.close()
