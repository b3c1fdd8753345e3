"""TimestepPreparation: the sampler that the request names, else the checkpoint's, set to its steps and flow shift."""

from __future__ import annotations

import torch

from ringlight.core.errors import InvalidRequest
from ringlight.core.named_samplers import METHODS, SAMPLERS
from ringlight.core.request import VideoRequest
from ringlight.core.scheduler import SchedulerSpec
from ringlight.samplers.choosing import find_solver, make_sampler
from ringlight.samplers.naming import SOLVERS, schedule_of
from ringlight.samplers.sampler import Sampler, SolverSampler


def prepare_timesteps(
    request: VideoRequest, spec: SchedulerSpec, generator: torch.Generator, device: torch.device
) -> Sampler:
    """Make a fresh sampler for this request, which continues the generator of the initial noise.

    Raises InvalidRequest where the checkpoint's own cannot take sigmas.
    """
    if request.sampler is not None:
        solver = SOLVERS[SAMPLERS[request.sampler].method]
    elif request.sigmas is None:
        return make_sampler(spec, request.num_inference_steps, request.flow_shift, generator, device)
    elif (own := find_solver(spec.class_name, spec.config)) is not None:
        solver = own
    else:
        raise InvalidRequest.of(
            "sigmas",
            f"the checkpoint's {spec.class_name}, as it is set, is diffusers' own and takes none here; name a sampler "
            f"beside them: {', '.join(METHODS)}",
        )
    return SolverSampler(solver, schedule_of(request, solver), request.num_inference_steps, generator, device)
