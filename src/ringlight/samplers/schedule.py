"""Schedules: how much of a video is noise at each call of the network, and which time the network is told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlight.core.scheduler import NUM_TRAIN_TIMESTEPS as NUM_TRAIN_TIMESTEPS

LEAST_CLEAN = 1e-6  # of a video at the first call: the logarithm of none would be infinite

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """Schedule of calls.

    `sigmas`: the share of noise at each call, noisiest first, and after the last. `times`: what each call is told.
    `first_share`: how much of the noise that a seed stands for the first latents are.

    All are numbers of float32, whatever is computed with them.
    """

    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    first_share: float = 1.0

    @classmethod
    def of(cls, sigmas: Shares, times: Shares) -> Schedule:
        """Build a schedule from the shares of noise at the calls; after the last call none is left."""
        shares, seen = (list(map(float, numbers.astype(np.float32))) for numbers in (sigmas, times))
        return cls((*shares, 0.0), tuple(seen))

    @property
    def num_calls(self) -> int:
        return len(self.times)


def short_of_noise(sigmas: Shares) -> Shares:
    """Shares of which the first has a little less noise, for methods that take logarithms of the rest."""
    if abs(sigmas[0] - 1) < LEAST_CLEAN:
        return np.concatenate([[sigmas[0] - LEAST_CLEAN], sigmas[1:]])
    return sigmas


def shifted(sigmas: Shares, flow_shift: float) -> Shares:
    """Shift sigmas so that more steps have much noise: s -> shift s / (1 + (shift - 1) s)."""
    return flow_shift * sigmas / (1 + (flow_shift - 1) * sigmas)


def once_shifted(num_steps: int, flow_shift: float) -> Shares:
    """Sigmas of equal steps, then shifted: the last one begins where a step of noise is left, and none is wasted."""
    return shifted(np.linspace(1, 0, num_steps + 1)[:-1], flow_shift)


def twice_shifted(num_steps: int, flow_shift: float) -> Shares:
    """Sigmas of diffusers' flow-match schedulers, which shift the smallest share once more with all others.

    In few steps it ends next to no noise, so that the last step does nothing.
    """
    smallest = shifted(np.array([1 / NUM_TRAIN_TIMESTEPS]), flow_shift)[0]
    return shifted(np.linspace(1, smallest, num_steps), flow_shift)
