"""Heun's method: each step but the last looks at where Euler's would end, and takes the mean of both velocities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS, Schedule, Shares, twice_shifted
from ringlight.samplers.solver import Draw, State


@dataclass(frozen=True)
class Heun:
    """Heun's method with two calls a step. `sigmas` of the schedule are those that the calls see."""

    def sigmas(self, num_steps: int, flow_shift: float) -> Shares:
        return twice_shifted(num_steps, flow_shift)

    def schedule(self, sigmas: Shares) -> Schedule:
        seen = np.concatenate([sigmas[:1], np.repeat(sigmas[1:], 2)])
        return Schedule.of(seen, seen * NUM_TRAIN_TIMESTEPS)

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        begun, is_second = call // 2 * 2, call % 2
        length = schedule.sigmas[begun + 1] - schedule.sigmas[begun]
        if not is_second:
            return latents + length * velocity, State((velocity,), latents)
        assert state.latents is not None, "the first call of a step has left them"
        return state.latents + (length / 2) * (state.predictions[0] + velocity), State()
