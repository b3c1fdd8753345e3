"""Server-sent events, and what they say of a video."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator

import httpx
import msgspec
from httpx_sse import EventSource, SSEError

from ringlight.client.api_error import ApiError
from ringlight.wire.video import PreviewEvent, Progress, Video


class Preview(msgspec.Struct, frozen=True):
    """Small picture of a video after a step, as bytes of its file."""

    step: int
    image: bytes


Event = Video | Progress | Preview


def read_events(answer: httpx.Response) -> Iterator[Event]:
    """Yield the events of a stream; those of unknown names are left out.

    Raises ApiError for what is no such stream, and for an event that is not what its name says.
    """
    try:
        for event in EventSource(answer).iter_sse():
            if event.data and (read := READERS.get(event.event)) is not None:
                try:
                    yield read(event.data)
                except (msgspec.DecodeError, binascii.Error) as error:
                    raise ApiError.unexpected(f"a {event.event} event cannot be read: {error}") from None
    except SSEError as error:
        raise ApiError.unexpected(f"not a stream of events: {error}") from None


def _read_video(text: str) -> Video:
    return msgspec.json.decode(text, type=Video)


def _read_progress(text: str) -> Progress:
    return msgspec.json.decode(text, type=Progress)


def _read_preview(text: str) -> Preview:
    picture = msgspec.json.decode(text, type=PreviewEvent)
    return Preview(picture.step, base64.b64decode(picture.image.rpartition(",")[2], validate=True))


READERS: dict[str, Callable[[str], Event]] = {
    "status": _read_video,
    "progress": _read_progress,
    "preview": _read_preview,
    "done": _read_video,
}
