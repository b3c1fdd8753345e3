"""The solvers of the samplers that requests name, and the schedule of a request's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ringlight.core.named_samplers import SAMPLERS, Method
from ringlight.core.request import VideoRequest
from ringlight.samplers.dpm import DpmSolver
from ringlight.samplers.euler import Euler
from ringlight.samplers.schedule import Schedule, shifted
from ringlight.samplers.solver import Solver
from ringlight.samplers.unipc import UniPc

SOLVERS: Mapping[Method, Solver] = {
    "unipc": UniPc(),
    "dpm++": DpmSolver(),
    "euler": Euler(),
    "dmd": Euler(stochastic=True),
}


def schedule_of(request: VideoRequest, solver: Solver) -> Schedule:
    """The request's sigmas, or those of the preset that it names, shifted once; else the solver's own."""
    preset = SAMPLERS[request.sampler] if request.sampler is not None and request.sigmas is None else None
    grid = request.sigmas if preset is None else preset.sigmas
    if not grid:
        return solver.schedule(solver.sigmas(request.num_inference_steps, request.flow_shift))
    schedule = solver.schedule(shifted(np.array(grid), request.flow_shift))
    if preset is None:
        return schedule
    return replace(
        schedule,
        times=preset.timesteps or schedule.times,
        first_share=schedule.sigmas[0] if preset.scales_noise else 1.0,
    )
