"""DPM-Solver++ (arXiv:2211.01095), multistep, of first and second order, and its variant that adds noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS, Schedule, Shares, shifted, short_of_noise
from ringlight.samplers.solver import Draw, State, log_snr


@dataclass(frozen=True)
class DpmSolver:
    """Step from the last `order` predicted videos. `stochastic`: SDE-DPM-Solver++."""

    order: int = 2
    kind: Literal["midpoint", "heun"] = "midpoint"
    stochastic: bool = False

    def sigmas(self, num_steps: int, flow_shift: float) -> Shares:
        clean = np.linspace(1, 1 / NUM_TRAIN_TIMESTEPS, num_steps + 1)
        return shifted(1 - clean[:0:-1], flow_shift)

    def schedule(self, sigmas: Shares) -> Schedule:
        sigmas = short_of_noise(sigmas)
        return Schedule.of(sigmas, np.trunc(sigmas * NUM_TRAIN_TIMESTEPS))

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        sigma, after = schedule.sigmas[call : call + 2]
        video = latents - sigma * velocity
        length = log_snr(after) - log_snr(sigma)
        span = 2 * length if self.stochastic else length
        share = -math.expm1(-span)  # of what is predicted
        kept = math.exp(-length) if self.stochastic else 1.0
        made = (after / sigma * kept) * latents + ((1 - after) * share) * video
        if self.order > 1 and call > 0 and after > 0:
            before = log_snr(sigma) - log_snr(schedule.sigmas[call - 1])
            slope = share / 2 if self.kind == "midpoint" else 1 - share / span
            made += ((1 - after) * slope * length / before) * (video - state.predictions[0])
        if self.stochastic:
            made += (after * math.sqrt(share)) * draw()
        return made, State((video,))
