"""ImageEncoding: the first frame as latents, every rank a band of its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.models.finite import extremes, not_finite
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import gather_parts
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import Axis
from ringlight.pipelines.networks import Autoencoder
from ringlight.pipelines.trace import JobEvents


@collective
def encode_image(image_1HWC: Tensor, vae: Autoencoder, device: torch.device, axis: Axis, events: JobEvents) -> Tensor:
    """The normalised latents (1, z, 1, h, w), float32, of a first frame (1, H, W, 3) in [-1, 1], on every rank.

    Raises NumericalError, by way of the events, where they are not finite.
    """
    scale = vae.spec.scale_factor_spatial
    rows, columns = (size // scale for size in image_1HWC.shape[1:3])
    bands = Bands(rows, axis)
    if bands.size:
        band = vae.encode(bands.own(image_1HWC, dim=1, scale=scale).to(device), bands)
    else:
        band = torch.empty(vae.spec.z_dim, 1, 0, columns, device=device)
    latents = gather_parts(band, bands.sizes, axis, dim=2).unsqueeze(0)
    events.boundary(not_finite("ImageEncoding", "latents of the picture", extremes(latents)))
    return latents
