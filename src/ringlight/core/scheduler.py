"""SchedulerSpec: what a checkpoint says of its sampler."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from ringlight.core.errors import InvalidCheckpoint

NUM_TRAIN_TIMESTEPS = 1000  # the time of pure noise, as Wan's networks know it


class SchedulerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `scheduler/scheduler_config.json`: the class diffusers must build, and the key of the flow shift."""

    config: dict[str, Any]
    class_name: str
    flow_shift: float
    flow_shift_key: str

    def num_calls(self, num_steps: int) -> int:
        """Number of network calls in so many steps: Heun's method makes two a step, but one in the last."""
        return 2 * num_steps - 1 if "Heun" in self.class_name else num_steps

    @classmethod
    def of(cls, config: dict[str, Any], path: Path) -> SchedulerSpec:
        """Build the spec from a scheduler's JSON; `path` is for its errors. Raises InvalidCheckpoint."""
        class_name = config.get("_class_name")
        if not isinstance(class_name, str):
            raise InvalidCheckpoint(f"{path}: _class_name names no scheduler")
        key = "flow_shift" if "flow_shift" in config else "shift"
        shift = config.get(key)
        if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not (math.isfinite(shift) and shift > 0):
            raise InvalidCheckpoint(f"{path}: needs a positive flow_shift (or shift), found {shift!r}")
        return cls(config=config, class_name=class_name, flow_shift=float(shift), flow_shift_key=key)
