"""Euler's method, and that of consistency models, which guesses the video at each step and adds noise to it again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS, Schedule, Shares, once_shifted, twice_shifted
from ringlight.samplers.solver import Draw, State


@dataclass(frozen=True)
class Euler:
    """Euler's method: follows each velocity in a straight line.

    A `stochastic` one follows it to its end, and goes back with new noise.

    The latter is how models are sampled that were distilled by distribution matching (DMD, arXiv:2405.14867) or for
    consistency (LCM, arXiv:2310.04378). `shifts_twice`: by itself it takes the steps of diffusers' schedulers.
    """

    stochastic: bool = False
    shifts_twice: bool = False

    def sigmas(self, num_steps: int, flow_shift: float) -> Shares:
        return twice_shifted(num_steps, flow_shift) if self.shifts_twice else once_shifted(num_steps, flow_shift)

    def schedule(self, sigmas: Shares) -> Schedule:
        return Schedule.of(sigmas, sigmas * NUM_TRAIN_TIMESTEPS)

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        sigma, after = schedule.sigmas[call : call + 2]
        if self.stochastic:
            return (1 - after) * (latents - sigma * velocity) + after * draw(), state
        return latents + (after - sigma) * velocity, state
