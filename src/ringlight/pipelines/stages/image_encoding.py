"""ImageEncoding: the first frame as latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.models.wan.vae import WanVae


def encode_image(image_1HWC: Tensor, vae: WanVae, device: torch.device) -> Tensor:
    """The normalised latents (1, z, 1, h, w), float32, of a first frame (1, H, W, 3) in [-1, 1]."""
    return vae.encode(image_1HWC.to(device)).unsqueeze(0)
