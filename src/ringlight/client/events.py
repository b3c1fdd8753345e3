"""Server-sent events: lines of text, and what they say of a video."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ringlight.client.errors import ApiError
from ringlight.wire.video import PreviewEvent, Progress, Video


class Preview(msgspec.Struct, frozen=True):
    """What a video looks like after a step: a small picture, as bytes of its file."""

    step: int
    image: bytes


Event = Video | Progress | Preview


def read_events(body: Iterable[bytes]) -> Iterator[Event]:
    """What a stream of events says of a video; names that are not known are left out.

    Raises ApiError for an event that is not what its name says.
    """
    for name, text in _parse(body):
        if (read := READERS.get(name)) is not None:
            try:
                yield read(text)
            except (msgspec.DecodeError, binascii.Error) as error:
                raise ApiError(200, "unexpected_answer", f"a {name} event cannot be read: {error}") from None


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


def _parse(body: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Names and texts of events: an empty line ends one, and one without text is none (WHATWG HTML, 9.2.6)."""
    name, texts = "", list[str]()
    for line in _lines(body):
        if not line:
            if texts:
                yield name or "message", "\n".join(texts)
            name, texts = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            texts.append(value)


def _lines(body: Iterable[bytes]) -> Iterator[str]:
    """Lines of a body that comes in arbitrary pieces; what has no end yet is held back."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    for piece in body:
        *whole, rest = (rest + decoder.decode(piece)).split("\n")
        yield from (line.removesuffix("\r") for line in whole)
