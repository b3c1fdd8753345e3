"""Sampler: makes the latents of one request of what the network predicts, and draws all noise that it takes for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ringlight.samplers.schedule import Schedule
from ringlight.samplers.solver import Solver, State


class Sampler(ABC):
    """Sampler of one request, call by call of the network. A step of the request may take more than one call.

    Some samplers add noise as they go. It comes from the request's generator, which is on the CPU and has made the
    initial noise before: so all ranks draw alike, on every device.
    """

    num_steps: int
    timesteps: Tensor
    """The time of each call, noisiest first, on the device of the latents."""
    sigmas: Tensor
    """The share of noise at each call, and after the last."""

    def calls(self, step: int) -> range:
        """The calls of a step. Heun's method makes two a step, but one in the last."""
        first, stop = (-(-number * len(self.timesteps) // self.num_steps) for number in (step, step + 1))
        return range(first, stop)

    def first_latents(self, noise: Tensor) -> Tensor:
        """Latents before the first call, made of the seed's noise."""
        return noise

    @abstractmethod
    def step(self, call: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """The latents after a call that predicted this velocity for `latents`. Calls come in their order."""

    @abstractmethod
    def memory(self) -> dict[str, Any]:
        """All that a step changes: tensors, plain values, and lists and maps of these."""

    @abstractmethod
    def remember(self, memory: dict[str, Any]) -> None:
        """Restore the memory of a sampler."""


class SolverSampler(Sampler):
    """A sampler by one of our own solvers."""

    def __init__(
        self, solver: Solver, schedule: Schedule, num_steps: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.num_steps = num_steps
        self._solver, self._generator = solver, generator
        self._schedule = schedule
        self.timesteps = torch.tensor(self._schedule.times, device=device)
        self.sigmas = torch.tensor(self._schedule.sigmas)
        self._state = State()

    def first_latents(self, noise: Tensor) -> Tensor:
        share = self._schedule.first_share
        return noise if share == 1 else noise * share

    def step(self, call: int, velocity: Tensor, latents: Tensor) -> Tensor:
        draw = partial(self._draw, latents)
        after, self._state = self._solver.step(self._schedule, call, velocity, latents, self._state, draw)
        return after

    def memory(self) -> dict[str, Any]:
        state = self._state
        return {
            "generator": self._generator.get_state(),
            "predictions": list(state.predictions),
            "latents": state.latents,
        }

    def remember(self, memory: dict[str, Any]) -> None:
        self._generator.set_state(memory["generator"])
        self._state = State(tuple(memory["predictions"]), memory["latents"])

    def _draw(self, latents: Tensor) -> Tensor:
        return torch.randn(latents.shape, generator=self._generator, dtype=torch.float32).to(latents.device)
