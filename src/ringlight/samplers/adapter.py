"""Schedulers of diffusers as samplers: any that solves the flow, where diffusers is installed."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor

from ringlight.core.scheduler import SchedulerSpec
from ringlight.samplers.sampler import Sampler

KEPT = (Tensor, bool, int, float, str, type(None))


class DiffusersSampler(Sampler):
    """A sampler by the scheduler of diffusers that a checkpoint names."""

    def __init__(
        self, spec: SchedulerSpec, num_steps: int, flow_shift: float, generator: torch.Generator, device: torch.device
    ) -> None:
        """Build the scheduler. Raises what diffusers raises, and LookupError if it has no such scheduler."""
        self.num_steps = num_steps
        self._generator = generator
        self._scheduler: Any = scheduler_class(spec.class_name).from_config(
            spec.config | {spec.flow_shift_key: flow_shift}
        )
        self._scheduler.set_timesteps(num_steps, device=device)
        if hasattr(self._scheduler, "set_begin_index"):
            # Of timesteps in whole numbers the first two may be equal: a scheduler left to find its place skips one.
            self._scheduler.set_begin_index(0)
        draws = "generator" in inspect.signature(self._scheduler.step).parameters
        self._extra = {"generator": generator} if draws else {}
        self.timesteps = self._scheduler.timesteps
        self.sigmas = getattr(self._scheduler, "sigmas", torch.empty(0))

    def step(self, call: int, velocity: Tensor, latents: Tensor) -> Tensor:
        time = self.timesteps[call]
        after: Tensor = self._scheduler.step(velocity, time, latents, return_dict=False, **self._extra)[0]
        return after

    def memory(self) -> dict[str, Any]:
        kept = {
            name: list(value) if isinstance(value, list) else value  # some are changed in place
            for name, value in vars(self._scheduler).items()
            if _can_be_kept(value)
        }
        return {"generator": self._generator.get_state(), "scheduler": kept}

    def remember(self, memory: dict[str, Any]) -> None:
        self._generator.set_state(memory["generator"])
        vars(self._scheduler).update(memory["scheduler"])


def scheduler_class(name: str) -> Any:
    """The class of a scheduler of diffusers. Raises LookupError."""
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise LookupError(f"is no scheduler of diffusers {diffusers.__version__}")
    return kind


def settings_of(spec: SchedulerSpec) -> dict[str, Any]:
    """Settings of its scheduler, as it is set here; also what the configuration leaves to diffusers."""
    parameters = inspect.signature(scheduler_class(spec.class_name)).parameters.values()
    return {each.name: spec.config.get(each.name, each.default) for each in parameters}


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_kept, value))
    return isinstance(value, KEPT)
