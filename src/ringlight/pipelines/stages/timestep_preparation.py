"""TimestepPreparation: the scheduler that the checkpoint names, set to the request's steps and flow shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.request import VideoRequest
from ringlight.core.spec import SchedulerSpec


def require_scheduler(spec: SchedulerSpec, model_path: Path) -> None:
    """Raise InvalidCheckpoint unless the checkpoint names a scheduler that diffusers has."""
    kind = getattr(diffusers, spec.class_name, None) if spec.class_name.endswith("Scheduler") else None
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise InvalidCheckpoint(
            f"{model_path / 'scheduler'}: diffusers {diffusers.__version__} has no scheduler {spec.class_name!r}"
        )


def prepare_timesteps(request: VideoRequest, spec: SchedulerSpec, device: torch.device) -> Any:
    """A fresh scheduler for this request; its `timesteps` are the times of the steps, noisiest first."""
    config = spec.config | {spec.flow_shift_key: request.flow_shift}
    scheduler = getattr(diffusers, spec.class_name).from_config(config)
    scheduler.set_timesteps(request.num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # Timesteps are whole numbers: where the first two are equal, a scheduler left to look for its place skips one.
        scheduler.set_begin_index(0)
    return scheduler
