"""Pictures made from a finished video: a thumbnail, a sheet of frames, and the last frame. PyAV, loaded when used."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from PIL import Image

from ringlight.core.errors import OutputError
from ringlight.core.output import part_path

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

THUMBNAIL_PIXELS = 320  # the longer side
CELL_PIXELS = 240  # the longer side of a frame on the sheet
SHEET_COLUMNS, SHEET_FRAMES = 4, 16  # at most


def make_thumbnail(video: Path, picture: Path) -> None:
    """Write a WebP of the frame in the middle, at most 320 pixels wide and high. Raises OutputError."""
    with _opened(video) as container:
        middle = container.streams.video[0].frames // 2
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == middle)
        _write(_shrunk(frame, THUMBNAIL_PIXELS), picture, "WEBP", quality=80)


def make_spritesheet(video: Path, picture: Path) -> None:
    """Write a JPEG of up to 16 frames, evenly spread from first to last, in rows of 4. Raises OutputError."""
    with _opened(video) as container:
        num_frames = container.streams.video[0].frames
        chosen = spread(num_frames, SHEET_FRAMES)
        wanted = set(chosen)
        frames = (frame for number, frame in enumerate(container.decode(video=0)) if number in wanted)
        cells = [_shrunk(frame, CELL_PIXELS) for frame in frames]
    columns = min(SHEET_COLUMNS, len(cells))
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(cells) / columns) * height))
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * width, number // columns * height))
    _write(sheet, picture, "JPEG", quality=85)


def last_frame(video: Path) -> bytes:
    """Read the last frame as a PNG, at the size of the video. Raises OutputError."""
    with _opened(video) as container:
        stream = container.streams.video[0]
        if stream.duration:  # from the last key frame on
            container.seek(stream.duration, stream=stream)
        *_, frame = container.decode(video=0)
        encoded = io.BytesIO()
        _to_picture(frame).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def spread(num_frames: int, most: int) -> list[int]:
    """Evenly spread numbers below `num_frames`, at most `most` of them, the first and the last included."""
    count = min(num_frames, most)
    return [round(number * (num_frames - 1) / max(1, count - 1)) for number in range(count)]


@contextmanager
def _opened(video: Path) -> Iterator[InputContainer]:
    """Open a video to read frames from. Errors within, in reading or writing, become OutputError."""
    import av

    try:
        with av.open(str(video)) as container:
            yield container
    except (av.FFmpegError, OSError, StopIteration, ValueError, IndexError) as error:
        raise OutputError(f"no picture can be made of {video.name}: {error or type(error).__name__}") from error


def _to_picture(frame: VideoFrame) -> Image.Image:
    """Convert a frame to RGB; the colours are BT.709 in the range of television, as our encoder writes them."""
    from av.video.reformatter import ColorRange, Colorspace

    pixels = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG)
    return Image.fromarray(pixels.to_ndarray())


def _shrunk(frame: VideoFrame, longest: int) -> Image.Image:
    picture = _to_picture(frame)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


def _write(picture: Image.Image, path: Path, kind: str, quality: int) -> None:
    """Write a picture, under a name of its own first: two calls may make the same picture at once."""
    part = part_path(path, uuid4().hex)
    try:
        picture.save(part, kind, quality=quality)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
