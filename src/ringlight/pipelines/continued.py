"""A video that another one continues: whether it can, and its frames, as they are read from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.video.frame import PictureType, VideoFrame

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import VideoRequest

CONTAINERS = (".mp4", ".webm")


def require_continuable(video: Path, output: Path, request: VideoRequest) -> None:
    """Raise InvalidRequest unless the request's frames can follow those of `video` in one file."""
    if output.suffix.lower() not in CONTAINERS:
        raise InvalidRequest.of("output", f"a video is continued in {' or '.join(CONTAINERS)}, not {output.suffix}")
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            width, height, fps = stream.width, stream.height, stream.average_rate
    except (OSError, IndexError, av.FFmpegError) as error:
        raise InvalidRequest.of("continues", f"{video} is not a video that can be read: {error}") from None
    if (width, height) != (request.width, request.height) or fps != request.fps:
        asked = f"{request.width}x{request.height} at {request.fps}"
        raise InvalidRequest.of("continues", f"the video is {width}x{height} at {fps} frames a second, not {asked}")


def frames_of(video: Path) -> Iterator[VideoFrame]:
    """Yield the frames of a video, without what would tell an encoder how to encode them."""
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            frame.pict_type = PictureType.NONE
            yield frame
