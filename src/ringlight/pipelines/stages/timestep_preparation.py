"""TimestepPreparation: the sampler that the checkpoint names, set to the request's steps and flow shift."""

from __future__ import annotations

import torch

from ringlight.core.request import VideoRequest
from ringlight.core.scheduler import SchedulerSpec
from ringlight.samplers.choosing import make_sampler
from ringlight.samplers.sampler import Sampler


def prepare_timesteps(
    request: VideoRequest, spec: SchedulerSpec, generator: torch.Generator, device: torch.device
) -> Sampler:
    """A fresh sampler for this request, which goes on with the generator of the initial noise."""
    return make_sampler(spec, request.num_inference_steps, request.flow_shift, generator, device)
