"""The sampler of a request: the scheduler that the checkpoint names, and one generator for all noise that it draws."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor

from ringlight.core.spec import SchedulerSpec

NUM_TRAIN_TIMESTEPS = 1000  # the time of pure noise, as Wan's networks know it
KEPT = (Tensor, bool, int, float, str, type(None))


class Sampler:
    """Makes latents of predictions, call by call of the network. A step of the request may take more than one call.

    Some samplers add noise as they go. It comes from the request's generator, which is on the CPU and has made the
    initial noise before: so all ranks draw alike, on every device.
    """

    def __init__(
        self,
        spec: SchedulerSpec,
        num_steps: int,
        flow_shift: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises what diffusers raises."""
        config = spec.config | {spec.flow_shift_key: flow_shift}
        self.scheduler: Any = getattr(diffusers, spec.class_name).from_config(config)
        self.scheduler.set_timesteps(num_steps, device=device)
        if hasattr(self.scheduler, "set_begin_index"):
            # Of timesteps in whole numbers the first two may be equal: a scheduler left to find its place skips one.
            self.scheduler.set_begin_index(0)
        self.num_steps = num_steps
        self._generator = generator
        draws = "generator" in inspect.signature(self.scheduler.step).parameters
        self._extra = {"generator": generator} if draws else {}

    @property
    def timesteps(self) -> Tensor:
        """The time of each call, noisiest first."""
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps

    @property
    def sigmas(self) -> Tensor:
        """The share of noise at each call, and after the last."""
        sigmas: Tensor = self.scheduler.sigmas
        return sigmas

    def calls(self, step: int) -> range:
        """The calls of a step. Heun's method makes two a step, but one in the last."""
        first, stop = (-(-number * len(self.timesteps) // self.num_steps) for number in (step, step + 1))
        return range(first, stop)

    def step(self, velocity: Tensor, time: Tensor, latents: Tensor) -> Tensor:
        """The latents after a call that predicted this velocity for `latents` at `time`."""
        after: Tensor = self.scheduler.step(velocity, time, latents, return_dict=False, **self._extra)[0]
        return after

    def memory(self) -> dict[str, Any]:
        """All that a step changes: tensors, plain values and lists of these by name, and the generator's state."""
        kept = {name: value for name, value in vars(self.scheduler).items() if _can_be_kept(value)}
        return {"generator": self._generator.get_state(), "scheduler": kept}

    def remember(self, memory: dict[str, Any]) -> None:
        """Go on as the sampler did whose memory that is."""
        self._generator.set_state(memory["generator"])
        vars(self.scheduler).update(memory["scheduler"])


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_kept, value))
    return isinstance(value, KEPT)
