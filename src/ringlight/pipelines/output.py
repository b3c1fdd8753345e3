"""Frames to files. Frames stream in as they are decoded; a thread encodes them, so that encoding costs no time.

Every writer works on part files beside the output and moves them into place at the end: what is there is whole. The end
of a file (what the encoder still holds, and the disk) takes its time, so it is a step of its own: `finish`.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import safetensors.torch
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ringlight.core.files import into_place
from ringlight.core.output import frame_path, part_path
from ringlight.core.request import VideoRequest
from ringlight.pipelines.comment import comment_of
from ringlight.pipelines.continued import frames_of

QUEUED_CHUNKS = 4
BT709 = 1

Frames = NDArray[Any]


def to_uint8(frames_FHWC: Tensor) -> Tensor:
    """Convert frames in [-1, 1] to 0..255, rounded to nearest."""
    return frames_FHWC.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).byte()


def to_unit_range(frames_FHWC: Tensor) -> Tensor:
    """Convert frames in [-1, 1] to float32 in 0..1."""
    return frames_FHWC.float().mul(0.5).add_(0.5)


FrameConverter = Callable[[Tensor], Tensor]  # decoded frames in [-1, 1] to what a writer takes, on their own device


class Output(Protocol):
    """Files that are being written, all of whose content is known."""

    def finish(self) -> list[str]:
        """Write what is left and move the files into place, from any thread. Returns their paths."""
        ...

    def abort(self) -> None:
        """Remove all that was written."""
        ...


class FrameWriter(Output, Protocol):
    """An output that takes its frames as they come, to be finished after the last."""

    def write(self, frames_FHWC: Tensor) -> None:
        """Take frames (F, H, W, 3) as the `frame_converter` of this output has made them, on any device."""
        ...


def finish(output: Output) -> list[str]:
    """Finish an output, or leave nothing of it behind. Returns the paths written."""
    try:
        return output.finish()
    except BaseException:
        output.abort()
        raise


class Encoder(Protocol):
    """Encodes uint8 frames (H, W, 3) into a part file, after those of a video that it continues; runs in a thread.

    The file has the `comment`, where it can have one.
    """

    def __call__(
        self, frames: Iterator[Frames], part: Path, request: VideoRequest, continues: Path | None, comment: str
    ) -> None: ...


def encode_video(
    frames: Iterator[Frames], part: Path, request: VideoRequest, continues: Path | None, comment: str
) -> None:
    """Encode H.264 or VP9 by extension: 4:2:0, BT.709 and tagged so, ready for streaming.

    The same frames of the same request give the same file.

    x264's macroblock tree is left out for that: with it, encoding again gives other bytes now and then.
    """
    codec, options = {
        ".mp4": ("libx264", {"crf": "18", "preset": "fast", "x264-params": "mbtree=0"}),
        ".webm": ("libvpx-vp9", {"crf": "24", "deadline": "good", "cpu-used": "4"}),
    }[part.suffix.lower()]
    container_options = {".mp4": {"movflags": "+faststart"}, ".webm": {"fflags": "+bitexact"}}[part.suffix.lower()]
    with av.open(str(part), "w", options=container_options) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = container.add_stream(codec, rate=Fraction(request.fps), options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = request.width, request.height, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = int(ColorRange.MPEG), BT709
        context.color_primaries = context.color_trc = BT709
        pictures: Iterator[av.VideoFrame] = (av.VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in frames)
        if continues is not None:  # its last frame is our first
            pictures = itertools.chain(frames_of(continues), itertools.islice(pictures, 1, None))
        for number, picture in enumerate(pictures):
            matched = picture.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            matched.pts, matched.time_base = number, Fraction(1, request.fps)
            container.mux(stream.encode(matched))
        container.mux(stream.encode(None))


def encode_gif(
    frames: Iterator[Frames], part: Path, request: VideoRequest, continues: Path | None, comment: str
) -> None:
    """Encode an endless animated GIF; its clock counts hundredths of a second, at least two per frame."""
    assert continues is None, "no picture is continued"
    pictures = (Image.fromarray(pixels) for pixels in frames)
    duration = max(20, round(100 / request.fps) * 10)
    next(pictures).save(part, save_all=True, append_images=pictures, duration=duration, loop=0)


ENCODERS: dict[str, Encoder] = {".mp4": encode_video, ".webm": encode_video, ".gif": encode_gif}


class Abandoned(Exception):
    """Raised into an encoder whose video nobody wants any more, so that it does not finish the file."""


class EncodedWriter:
    """Writer of uint8 frames through a bounded queue to an encoder in a thread."""

    convert = staticmethod(to_uint8)

    def __init__(self, path: Path, request: VideoRequest, job_id: str, continues: Path | None, comment: str) -> None:
        self._path = path
        self._part = part_path(path, job_id)
        self._queue: queue.Queue[Frames | None] = queue.Queue(QUEUED_CHUNKS)
        self._error: Exception | None = None
        self._abandoned = False
        encoded = (request, continues, comment)
        self._thread = threading.Thread(target=self._run, args=encoded, name="encoder", daemon=True)
        self._thread.start()

    def write(self, frames_FHWC: Tensor) -> None:
        if self._error is not None:  # no need to decode the rest
            raise self._error
        self._put(frames_FHWC.cpu().numpy())

    def finish(self) -> list[str]:
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return into_place([(self._part, self._path)])

    def abort(self) -> None:
        self._abandoned = True
        self._put(None)
        self._thread.join()
        self._part.unlink(missing_ok=True)

    def _put(self, frames: Frames | None) -> None:
        """Pass frames to the thread; once it has ended they are dropped."""
        while self._thread.is_alive():
            try:
                return self._queue.put(frames, timeout=0.1)
            except queue.Full:
                continue

    def _run(self, request: VideoRequest, continues: Path | None, comment: str) -> None:
        try:
            ENCODERS[self._part.suffix.lower()](self._frames(), self._part, request, continues, comment)
        except Abandoned:
            pass
        except Exception as error:  # handed on by write() and finish()
            self._error = error

    def _frames(self) -> Iterator[Frames]:
        while (frames := self._queue.get()) is not None:
            for frame in frames:
                if self._abandoned:
                    raise Abandoned
                yield frame
        if self._abandoned:
            raise Abandoned


class PngWriter:
    """Writer of one picture, or of numbered ones by a pattern."""

    convert = staticmethod(to_uint8)

    def __init__(self, path: Path, request: VideoRequest, job_id: str, continues: Path | None, comment: str) -> None:
        assert continues is None, "no picture is continued"
        self._path = path
        self._job_id = job_id
        self._parts: list[tuple[Path, Path]] = []

    def write(self, frames_FHWC: Tensor) -> None:
        for pixels in frames_FHWC.cpu().numpy():
            path = frame_path(self._path, len(self._parts))
            self._parts.append((part_path(path, self._job_id), path))
            Image.fromarray(pixels).save(self._parts[-1][0])

    def finish(self) -> list[str]:
        return into_place(self._parts)

    def abort(self) -> None:
        for part, _ in self._parts:
            part.unlink(missing_ok=True)


class NpyWriter:
    """Writer of float32 frames [F, H, W, 3] in 0..1, as they left the decoder."""

    convert = staticmethod(to_unit_range)

    def __init__(self, path: Path, request: VideoRequest, job_id: str, continues: Path | None, comment: str) -> None:
        assert continues is None, "no array is continued"
        self._path = path
        self._part = part_path(path, job_id)
        shape = (request.num_frames, request.height, request.width, 3)
        self._file = self._part.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, frames_FHWC: Tensor) -> None:
        self._file.write(frames_FHWC.cpu().numpy().astype("<f4").tobytes())

    def finish(self) -> list[str]:
        self._file.close()
        return into_place([(self._part, self._path)])

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # what is left to write has no place
            self._file.close()
        self._part.unlink(missing_ok=True)


class LatentsWriter:
    """Writer of final latents (1, z, T, h, w), normalised as the transformer sees them."""

    def __init__(self, latents: Tensor, path: Path, job_id: str) -> None:
        self._latents = latents.contiguous().cpu()
        self._path = path
        self._part = part_path(path, job_id)

    def finish(self) -> list[str]:
        self._part.write_bytes(safetensors.torch.save({"latents": self._latents}))
        return into_place([(self._part, self._path)])

    def abort(self) -> None:
        self._part.unlink(missing_ok=True)


WRITERS: dict[str, type[EncodedWriter] | type[PngWriter] | type[NpyWriter]] = {
    ".mp4": EncodedWriter,
    ".webm": EncodedWriter,
    ".gif": EncodedWriter,
    ".png": PngWriter,
    ".npy": NpyWriter,
}


def frame_converter(path: Path) -> FrameConverter:
    """Converter of frames for the writer of this extension, also for ranks that have no writer."""
    return WRITERS[path.suffix.lower()].convert


def open_writer(
    path: Path, request: VideoRequest, job_id: str, continues: Path | None = None, *, embeds: bool = True
) -> FrameWriter:
    """Open the writer for this extension, ready for frames.

    It writes the frames of the video `continues` first, and then leaves out the first that it is given. A film
    `embeds` the request that made it.
    """
    comment = comment_of(request) if embeds else ""
    return WRITERS[path.suffix.lower()](path, request, job_id, continues, comment)
