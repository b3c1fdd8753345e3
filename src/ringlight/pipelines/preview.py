"""Previews: small pictures of what a video will be, cheap enough to make between two steps.

Decoding is many convolutions, but of a trained decoder the colours of a latent pixel are roughly a linear function of
its channels. That function is fitted to the decoder at hand, so there are no numbers here that belong to one
checkpoint. It sees no neighbours and no time: a preview shows layout and colours rather than detail. How like the video
it is depends on the decoder; that of a demo checkpoint, which nobody has trained, is not linear at all.
"""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ringlight.parallel.halo import Bands
from ringlight.pipelines.networks import Autoencoder
from ringlight.pipelines.output import to_uint8
from ringlight.pipelines.trace import Tracer

MAX_WIDTH = 320
JPEG_QUALITY = 80
DETAIL = 4  # pixels of a preview along a side of a latent pixel
FITTED_SIZE = 12  # latent pixels along a side of the pictures that it is fitted to
NUM_PICTURES = 4
OCTAVES = (2, 4, 8, 16, 32, 64)  # random values along a side of a picture, each of half the strength of the one before
COLOURFULNESS = 0.5  # of a picture's variation, what differs between its colours
RIDGE = 1e-3


class Painter:
    """Converter of latents to small pictures, by a linear map from channels to colours, fitted to a decoder once."""

    def __init__(self, vae: Autoencoder) -> None:
        self._vae = vae
        self._map: Tensor | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether pictures can be made without the decoder."""
        return self._map is not None

    def fit(self, device: torch.device) -> None:
        """Fit the map. All of the autoencoder must be there."""
        self._map = fit(self._vae, device)

    def paint(self, latents_ZHW: Tensor) -> bytes:
        """Paint a JPEG of one frame of normalised latents, at most 320 pixels wide."""
        assert self._map is not None, "it is fitted before anything is painted"
        pixels = to_uint8(apply(self._map, latents_ZHW)).cpu().numpy()
        picture = Image.fromarray(pixels)
        if picture.width > MAX_WIDTH:
            height = max(1, round(picture.height * MAX_WIDTH / picture.width))
            picture = picture.resize((MAX_WIDTH, height), Image.Resampling.BOX)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


class Previews:
    """The previews of one job: one after its first step, then at most one every so many seconds of its turns."""

    def __init__(self, painter: Painter, seconds: float, tracer: Tracer) -> None:
        self._painter = painter
        self._seconds = seconds
        self._tracer = tracer
        self._next = -math.inf

    def is_due(self) -> bool:
        return self._tracer.clock.now() >= self._next

    def make(self, step: int, video: Tensor) -> None:
        """Show the middle frame of latents (1, z, T, h, w)."""
        self._tracer.events.preview_made(step, self._painter.paint(video[0, :, video.shape[2] // 2]))
        self._next = self._tracer.clock.now() + self._seconds


def apply(colours: Tensor, latents_ZHW: Tensor) -> Tensor:
    """Apply a map (Z + 1, DETAIL * DETAIL * 3) to latents: pictures (H * DETAIL, W * DETAIL, 3), about in [-1, 1]."""
    _, height, width = latents_ZHW.shape
    blocks = _with_one(latents_ZHW) @ colours
    parts = blocks.view(height, width, DETAIL, DETAIL, 3).permute(0, 2, 1, 3, 4)
    return parts.reshape(height * DETAIL, width * DETAIL, 3)


def fit(vae: Autoencoder, device: torch.device) -> Tensor:
    """Fit the map (Z + 1, DETAIL * DETAIL * 3) from a latent pixel, and 1, to its block of colours.

    It is fitted by least squares to what the decoder makes of a few pictures' latents. The pictures are random, with
    the spectrum that photographs have.
    """
    generator = torch.Generator().manual_seed(0)
    given, wanted = [], []
    for _ in range(NUM_PICTURES):
        picture = random_picture(FITTED_SIZE * vae.spec.scale_factor_spatial, generator).to(device)
        latents_Z1HW = vae.encode(picture.unsqueeze(0))
        stream = vae.start_decoding(Bands.alone(FITTED_SIZE), FITTED_SIZE, 1, device)
        frame_HWC = vae.decode_next(latents_Z1HW, stream, first=True)[0]
        given.append(_with_one(latents_Z1HW[:, 0]))
        wanted.append(_blocks(frame_HWC.float()))
    rows, blocks = torch.cat(given).double().cpu(), torch.cat(wanted).double().cpu()
    squares = rows.T @ rows
    weight = RIDGE * squares.diagonal().mean()
    colours: Tensor = torch.linalg.solve(squares + weight * torch.eye(len(squares)), rows.T @ blocks)
    return colours.float().to(device)


def random_picture(size: int, generator: torch.Generator) -> Tensor:
    """Draw a picture (size, size, 3) in [-1, 1]: noise of several octaves, most of it grey."""
    picture = torch.zeros(1, 3, size, size)
    for octave, side in enumerate(OCTAVES):
        grey, colour = (torch.randn(1, channels, side, side, generator=generator) for channels in (1, 3))
        noise = (1 - COLOURFULNESS) * grey + COLOURFULNESS * colour
        picture += 0.5**octave * interpolate(noise, (size, size), mode="bicubic", align_corners=False)
    return picture[0].tanh().permute(1, 2, 0)


def _with_one(latents_ZHW: Tensor) -> Tensor:
    """Channels of each pixel, and a 1: (H * W, Z + 1)."""
    rows = latents_ZHW.flatten(1).T.float()
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _blocks(frame_HWC: Tensor) -> Tensor:
    """Decoded frame, shrunk to DETAIL pixels along a side of each latent pixel: (h * w, DETAIL * DETAIL * 3)."""
    size = FITTED_SIZE * DETAIL
    small = interpolate(frame_HWC.permute(2, 0, 1).unsqueeze(0), (size, size), mode="area")[0]
    parts = small.view(3, FITTED_SIZE, DETAIL, FITTED_SIZE, DETAIL).permute(1, 3, 2, 4, 0)
    return parts.reshape(FITTED_SIZE**2, -1)
