"""Experts: the networks of one request, of which one is at work at a time: which one follows from the time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from torch import Tensor

from ringlight.parallel.collective import collective


class Predictor(Protocol):
    """Predicts the velocity of latents. All ranks call it together."""

    @property
    def kept(self) -> object:
        """State of its request, which it keeps with and without weights at hand."""

    def predict(self, latents: Tensor, timesteps: Tensor, between: Callable[[], None]) -> Tensor:
        """Predict the velocity (1, z, T, h, w), float32, at the times of the latents: one for all tokens, or two.

        `between` is called between blocks, on all ranks alike, and may break the forwards off (parallel/turns).
        """


class Experts:
    """Predictor that uses one expert for high noise and one for low, or the only transformer. To be closed in the end.

    One is made when a time first asks for it, and given up when a time asks for another, so that no more than one has
    room on the device. Times fall, so each is made once. It is at work, with its weights, from then on, but while it
    rests.
    """

    def __init__(
        self,
        make: Callable[[int], Predictor],
        at_work: Callable[[int, Predictor], AbstractContextManager[None]],
        boundary: float,
    ) -> None:
        """Prepare the experts; the first one is for times from the `boundary` on.

        `make` makes an expert, by its number, and `at_work` brings its weights to the device.
        """
        self._make, self._at_work, self._boundary = make, at_work, boundary
        self._number: int | None = None
        self._expert: Predictor | None = None
        self._weights: ExitStack | None = None

    def have(self, time: float) -> Predictor:
        """Switch to the expert for a time."""
        number = 0 if time >= self._boundary else 1
        if self._expert is None or number != self._number:
            self.close()
            self._expert, self._number = self._make(number), number
        if self._weights is None:
            weights = ExitStack()
            weights.enter_context(self._at_work(number, self._expert))
            self._weights = weights
        return self._expert

    @collective
    def predict(self, latents: Tensor, timesteps: Tensor, between: Callable[[], None]) -> Tensor:
        """Predict with the expert for the last of these times; a first frame's time comes before it."""
        guided = self.have(float(timesteps[-1]))
        return guided.predict(latents, timesteps, between)

    @property
    def kept(self) -> object:
        """State of the request that is kept while it rests."""
        return None if self._expert is None else self._expert.kept

    def rest(self) -> None:
        """Free the weights of the current expert, but nothing that was made of the request."""
        weights, self._weights = self._weights, None
        if weights is not None:
            weights.close()

    def close(self) -> None:
        """Free the current expert."""
        self._expert = None
        self.rest()
