"""Euler's method, and that of consistency models, which guesses the video at each step and adds noise to it again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS, Schedule, twice_shifted
from ringlight.samplers.solver import Draw, State


@dataclass(frozen=True)
class Euler:
    """Follows each velocity in a straight line; a `stochastic` one to the end of it, and goes back with new noise."""

    stochastic: bool = False

    def schedule(self, num_steps: int, flow_shift: float) -> Schedule:
        sigmas = twice_shifted(num_steps, flow_shift)
        return Schedule.of(sigmas, sigmas * NUM_TRAIN_TIMESTEPS)

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        sigma, after = schedule.sigmas[call : call + 2]
        if self.stochastic:
            return (1 - after) * (latents - sigma * velocity) + after * draw(), state
        return latents + (after - sigma) * velocity, state
