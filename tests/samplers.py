"""Every scheduler of diffusers that a checkpoint may name, set as a flow model would have it, and how it may be set."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import diffusers
import msgspec

from ringlight.core.scheduler import SchedulerSpec
from ringlight.families.wan.recipe import WanRecipe

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}


def all_schedulers() -> list[str]:
    """The names of all of diffusers' schedulers."""
    found = (getattr(diffusers, name, None) for name in dir(diffusers) if name.endswith("Scheduler"))
    kinds = {kind for kind in found if isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)}
    return sorted(kind.__name__ for kind in kinds)


def scheduler_spec(class_name: str, flow_shift: float = 5.0, **config: Any) -> SchedulerSpec:
    """What ModelSpec reads from the file of such a scheduler."""
    known = inspect.signature(getattr(diffusers, class_name)).parameters
    key = "flow_shift" if "flow_shift" in known else "shift"
    values = {"_class_name": class_name} | FLOW | {key: flow_shift} | config
    return SchedulerSpec(config=values, class_name=class_name, flow_shift=flow_shift, flow_shift_key=key)


# By name, the class and its configuration. `test_samplers` proves that no class is left out.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc-3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm-single": ("DPMSolverSinglestepScheduler", {}),
    "dpm-single-sde": ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "flow-map": ("FlowMapEulerDiscreteScheduler", {}),
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "euler-karras": ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler-stochastic": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "lcm": ("FlowMatchLCMScheduler", {}),
    "ltx": ("LTXEulerAncestralRFScheduler", {}),
}
NOISY = ["dpm-sde", "dpm-single-sde", "euler-stochastic", "lcm", "ltx"]


def sampler_spec(name: str, flow_shift: float = 5.0) -> SchedulerSpec:
    class_name, config = SAMPLERS[name]
    return scheduler_spec(class_name, flow_shift, **config)


def with_sampler(pipeline: WanRecipe, name: str) -> WanRecipe:
    """The same networks with another sampler, as if the checkpoint named that one."""
    other = copy.copy(pipeline)
    other.spec = msgspec.structs.replace(pipeline.spec, scheduler=sampler_spec(name))
    return other
