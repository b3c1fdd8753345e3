"""A first frame, drawn from numbers alone: shapes, a gradient, and some grain."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 512, 600


def picture() -> bytes:
    """A JPEG."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    grain = np.random.default_rng(9).normal(0, 6, (HEIGHT, WIDTH, 1))
    sky = np.stack([60 + rows * 0.2, 90 + rows * 0.15, 200 - rows * 0.2], axis=-1)
    sun = ((rows - 180) ** 2 + (columns - 340) ** 2 < 90**2)[..., None]
    hill = (rows > 420 + 40 * np.sin(columns / 60))[..., None]
    pixels = np.where(hill, [40, 80, 50], np.where(sun, [250, 200, 120], sky)) + grain
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
