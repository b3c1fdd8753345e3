"""ImageEncoding: a picture as latents, or what is known of a whole video with it; every rank a band of its rows."""

from __future__ import annotations

from collections.abc import Iterator

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
    """Encode a first frame (1, H, W, 3) in [-1, 1] to normalised latents (1, z, 1, h, w), float32, on every rank.

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


@collective
def encode_condition(
    image_1HWC: Tensor,
    last_1HWC: Tensor | None,
    num_frames: int,
    vae: Autoencoder,
    device: torch.device,
    axis: Axis,
    events: JobEvents,
) -> Tensor:
    """Encode pictures as a condition: a mask and latents (1, 4+z, T, h, w), float32, on every rank.

    It stands for a video of so many frames (4k+1) that begins with a picture (1, H, W, 3) in [-1, 1], and perhaps ends
    with another, as in WanImageToVideoPipeline of diffusers.

    Latents are those of the pictures and grey frames between them, encoded a latent frame at a time. Raises
    NumericalError, by way of the events, where they are not finite, and Cancelled between two of them.
    """
    scale, stride = vae.spec.scale_factor_spatial, vae.spec.scale_factor_temporal
    rows, columns = (size // scale for size in image_1HWC.shape[1:3])
    num_latents, bands = (num_frames - 1) // stride + 1, Bands(rows, axis)
    band = torch.empty(vae.spec.z_dim, num_latents, bands.size, columns, device=device)
    first, last = (
        None if each is None else bands.own(each, dim=1, scale=scale).to(device) for each in (image_1HWC, last_1HWC)
    )
    assert first is not None
    portions = _portions(first, last, num_latents, stride)
    stream = vae.start_encoding(bands, columns, num_frames, device) if bands.size else None
    for number, frames in enumerate(portions):
        events.boundary()
        if stream is not None:
            band[:, number : number + 1] = vae.encode_next(frames, stream)
    latents = gather_parts(band, bands.sizes, axis, dim=2)
    events.boundary(not_finite("ImageEncoding", "latents of the picture", extremes(latents)))
    mask = latents.new_zeros(stride, num_latents, rows, columns)
    mask[:, 0] = 1
    mask[-1, -1] = 1 if last_1HWC is not None else mask[-1, -1]
    return torch.cat([mask, latents]).unsqueeze(0)


def _portions(image_1HWC: Tensor, last_1HWC: Tensor | None, num_latents: int, stride: int) -> Iterator[Tensor]:
    """Yield the frames of each latent frame: the picture, and grey ones, of which the last may be a picture again."""
    yield image_1HWC
    grey = image_1HWC.new_zeros(stride, *image_1HWC.shape[1:]) if num_latents > 1 else image_1HWC
    for number in range(1, num_latents):
        if last_1HWC is not None and number + 1 == num_latents:
            grey[-1:] = last_1HWC
        yield grey
