"""UniPC (arXiv:2302.04867), the kind with B(h) = e^-h - 1: a predictor, which each new prediction corrects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS, Schedule, Shares, shifted, short_of_noise
from ringlight.samplers.solver import Draw, State, log_snr


@dataclass(frozen=True)
class UniPc:
    """Step from the last `order` predicted videos. `uncorrected`: calls whose step stays as it was predicted."""

    order: int = 2
    uncorrected: frozenset[int] = frozenset()

    def sigmas(self, num_steps: int, flow_shift: float) -> Shares:
        return shifted(np.linspace(1, 1 / NUM_TRAIN_TIMESTEPS, num_steps + 1)[:-1], flow_shift)

    def schedule(self, sigmas: Shares) -> Schedule:
        sigmas = short_of_noise(sigmas)
        return Schedule.of(sigmas, np.trunc(sigmas * NUM_TRAIN_TIMESTEPS))

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        video = latents - schedule.sigmas[call] * velocity
        if state.latents is not None and call - 1 not in self.uncorrected:
            known = state.predictions[: self._order_at(schedule, call - 1)]
            latents = _update(schedule, call - 1, state.latents, known, video)
        videos = (video, *state.predictions)[: self.order]
        made = _update(schedule, call, latents, videos[: self._order_at(schedule, call)])
        return made, State(videos, latents)

    def _order_at(self, schedule: Schedule, call: int) -> int:
        """Order at a call: low at the beginning, where little is known, and at the end, for it to be stable."""
        return min(self.order, call + 1, schedule.num_calls - call)


def _update(
    schedule: Schedule, call: int, latents: Tensor, videos: Sequence[Tensor], ahead: Tensor | None = None
) -> Tensor:
    """Step from the latents before a call to those after it, by the predicted videos of this call and those before.

    They are newest first. The video predicted `ahead`, at the next call, takes part if there is one.
    """
    sigma, after = schedule.sigmas[call : call + 2]
    begin = log_snr(sigma)
    length = log_snr(after) - begin
    places = [(log_snr(schedule.sigmas[call - back]) - begin) / length for back in range(1, len(videos))]
    newest, others = videos[0], list(videos[1:])
    if ahead is not None:
        places, others = [*places, 1.0], [*others, ahead]
    mean = newest
    for weight, place, other in zip(_weights(places, length), places, others, strict=True):
        mean = mean + (weight / place) * (other - newest)
    return (after / sigma) * latents - ((1 - after) * math.expm1(-length)) * mean


def _weights(places: Sequence[float], length: float) -> list[float]:
    """Weights of the differences to predictions at these places (1: a whole step ahead).

    With them a step is exact as far as their number allows.
    """
    if len(places) < 2:
        return [0.5] * len(places)
    orders = range(1, len(places) + 1)
    phi, factorial, right = math.expm1(-length) / -length - 1, 1, []
    for order in orders:
        right.append(phi * factorial / math.expm1(-length))
        factorial *= order + 1
        phi = phi / -length - 1 / factorial
    powers = [[place ** (order - 1) for place in places] for order in orders]
    return [float(weight) for weight in np.linalg.solve(powers, right)]
