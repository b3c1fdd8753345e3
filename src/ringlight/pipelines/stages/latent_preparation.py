"""LatentPreparation: the noise that a seed stands for."""

from __future__ import annotations

import torch
from torch import Tensor


def prepare_latents(shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw float32 noise of the shape (1, z, T, h, w), on the CPU so that a seed gives one noise anywhere."""
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32).to(device)
