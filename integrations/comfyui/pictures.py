"""Pictures as ComfyUI has them, and as files: tensors of [frames, height, width, channels], 0 to 1."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

CHANNELS = 3
LARGEST = 255


def to_file(pictures: torch.Tensor) -> bytes:
    """The first picture of a batch as PNG, without what is transparent of it."""
    pixels = pictures[0, ..., :CHANNELS].clamp(0, 1).mul(LARGEST).round().to(torch.uint8).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def frames_of(path: Path) -> torch.Tensor:
    """All frames of a film that Ringlight has made, whose colours are BT.709's of limited range."""
    with av.open(path) as film:
        frames = [
            frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG)
            for frame in film.decode(video=0)
        ]
    return torch.from_numpy(np.stack([frame.to_ndarray() for frame in frames])).float().div_(LARGEST)
