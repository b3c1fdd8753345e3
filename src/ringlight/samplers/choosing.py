"""Choice of a sampler for a checkpoint's scheduler: one of our own solvers, or diffusers' scheduler of that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from ringlight.core.installation import not_importable
from ringlight.core.scheduler import SchedulerSpec
from ringlight.samplers.dpm import DpmSolver
from ringlight.samplers.euler import Euler
from ringlight.samplers.heun import Heun
from ringlight.samplers.sampler import Sampler, SolverSampler
from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS
from ringlight.samplers.solver import Solver
from ringlight.samplers.unipc import UniPc

Config = Mapping[str, Any]

# What a configuration must say of those that also solve something else than a flow.
OF_FLOWS: Config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
# What it may say, where our solvers are to solve it: else it is for diffusers' own scheduler.
ORDINARY: Config = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
    "scale_factors": None,
    "thresholding": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "predict_x0": True,
    "solver_p": None,
}


def make_sampler(
    spec: SchedulerSpec, num_steps: int, flow_shift: float, generator: torch.Generator, device: torch.device
) -> Sampler:
    """Make a fresh sampler of this scheduler.

    Raises LookupError if there is none, InvalidInstallation if diffusers is there and cannot be imported, and what
    diffusers raises.
    """
    solver = find_solver(spec.class_name, spec.config)
    if solver is not None:
        schedule = solver.schedule(solver.sigmas(num_steps, flow_shift))
        return SolverSampler(solver, schedule, num_steps, generator, device)
    made: Sampler = _adapter().DiffusersSampler(spec, num_steps, flow_shift, generator, device)
    return made


def settings_of(spec: SchedulerSpec) -> Config:
    """Settings of a scheduler of diffusers. Raises as make_sampler."""
    settings: Config = _adapter().settings_of(spec)
    return settings


def _adapter() -> ModuleType:
    """Import the adapter when a checkpoint asks for it, because that takes as long as importing torch."""
    if find_spec("diffusers") is None:
        ours = ", ".join(sorted(SOLVERS))
        raise LookupError(
            f"is, as it is set, none of our own ({ours}), and diffusers, which may have it, is not installed: "
            "pip install 'ringlight[diffusers]'"
        )
    try:
        return import_module("ringlight.samplers.adapter")
    except Exception as error:
        raise not_importable(error) from error


def find_solver(class_name: str, config: Config) -> Solver | None:
    """Solver of ours that equals diffusers' scheduler of that name with these settings; None if there is none."""
    build = SOLVERS.get(class_name)
    if build is None or any(config.get(key, value) != value for key, value in ORDINARY.items()):
        return None
    return build(config)


def _euler(config: Config) -> Solver | None:
    stochastic = config.get("stochastic_sampling", False)
    return Euler(stochastic, shifts_twice=True) if isinstance(stochastic, bool) else None


def _heun(config: Config) -> Solver | None:
    return Heun()


def _lcm(config: Config) -> Solver | None:
    return Euler(stochastic=True, shifts_twice=True)


def _unipc(config: Config) -> Solver | None:
    order, uncorrected = config.get("solver_order", 2), config.get("disable_corrector", [])
    is_known = _is_of_flows(config) and order in (1, 2, 3) and config.get("solver_type", "bh2") == "bh2"
    return UniPc(order, frozenset(uncorrected)) if is_known else None


def _dpm(config: Config) -> Solver | None:
    order, kind = config.get("solver_order", 2), config.get("solver_type", "midpoint")
    algorithm = config.get("algorithm_type", "dpmsolver++")
    is_known = order in (1, 2) and kind in ("midpoint", "heun") and algorithm in ("dpmsolver++", "sde-dpmsolver++")
    return DpmSolver(order, kind, algorithm.startswith("sde")) if is_known and _is_of_flows(config) else None


def _is_of_flows(config: Config) -> bool:
    return all(config.get(key) == value for key, value in OF_FLOWS.items())


SOLVERS: Mapping[str, Callable[[Config], Solver | None]] = {
    "DPMSolverMultistepScheduler": _dpm,
    "FlowMatchEulerDiscreteScheduler": _euler,
    "FlowMatchHeunDiscreteScheduler": _heun,
    "FlowMatchLCMScheduler": _lcm,
    "UniPCMultistepScheduler": _unipc,
}
