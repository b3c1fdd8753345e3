"""Solver: one step of a way from noise to a video, as a function of what it is given and nothing else.

B a batch of one, z channels, T frames, h rows, w columns: all tensors here are float32 (B, z, T, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ringlight.samplers.schedule import Schedule, Shares

Draw = Callable[[], Tensor]  # the next noise of the request, in the shape of its latents


@dataclass(frozen=True)
class State:
    """Memory of earlier calls for later ones: predictions, newest first, and latents that a step began with."""

    predictions: tuple[Tensor, ...] = ()
    latents: Tensor | None = None


class Solver(Protocol):
    """A method with its settings. It holds nothing of a request."""

    def sigmas(self, num_steps: int, flow_shift: float) -> Shares:
        """The share of noise before each step, where nobody says which; shifted."""
        ...

    def schedule(self, sigmas: Shares) -> Schedule:
        """Schedule of steps that begin with these shares of noise."""
        ...

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        """The latents after a call that predicted this velocity (noise - video) for `latents`, and what to remember."""
        ...


def log_snr(sigma: float) -> float:
    """Log signal-to-noise ln((1 - sigma) / sigma): the time in which the methods of high order take their steps."""
    return math.inf if sigma == 0 else math.log1p(-sigma) - math.log(sigma)
