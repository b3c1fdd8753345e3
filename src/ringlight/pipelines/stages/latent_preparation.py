"""LatentPreparation: the noise that a seed stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec


def prepare_latents(request: VideoRequest, spec: ModelSpec, generator: torch.Generator, device: torch.device) -> Tensor:
    """float32 noise (1, z, T, h, w), drawn on the CPU so that a seed gives the same on every device."""
    shape = spec.latent_shape(request.num_frames, request.height, request.width)
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32).to(device)
