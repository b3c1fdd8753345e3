"""PNG as Pillow can take it: long texts left out, and a long profile beside it. Bounded in memory and in work."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ringlight.core.errors import InvalidRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONG_BYTES = 2**20  # a text or profile over this is refused by Pillow, and the picture with it
MAX_PROFILE_BYTES = 16 * 2**20
MAX_UNPACKED_BYTES = 64 * 2**20  # of all texts and profiles together
TEXTS = (b"tEXt", b"zTXt", b"iTXt")


class Chunk(NamedTuple):
    """One chunk of a PNG, which lies at `place` with its length before it and its checksum behind it."""

    kind: bytes
    content: memoryview
    place: slice


class Png(NamedTuple):
    """A PNG that can be opened, and what Pillow would not find in it: a long profile, EXIF behind the pixels."""

    encoded: bytes
    profile: bytes | None
    exif: bytes | None


def prepare(encoded: bytes) -> Png:
    """Remove long texts and profiles of a PNG. Raises InvalidRequest if it takes too much to look into them."""
    profile, exif, left_bytes = None, None, MAX_UNPACKED_BYTES
    long: list[slice] = []
    for chunk in _chunks(encoded):
        if chunk.kind == b"eXIf":
            exif = bytes(chunk.content)
        if chunk.kind != b"iCCP" and chunk.kind not in TEXTS:
            continue
        most = MAX_PROFILE_BYTES if chunk.kind == b"iCCP" else LONG_BYTES
        unpacked = _unpacked(chunk, most + 1)
        left_bytes -= len(unpacked)
        if left_bytes < 0:
            why = f"holds more than {MAX_UNPACKED_BYTES} bytes of texts; save it without its metadata"
            raise InvalidRequest.of("image", why)
        if len(unpacked) > LONG_BYTES:
            long.append(chunk.place)
            if chunk.kind == b"iCCP" and len(unpacked) <= most:
                profile = unpacked
    return Png(_without(encoded, long), profile, exif)


def _chunks(encoded: bytes) -> Iterator[Chunk]:
    """Yield all chunks, up to where a PNG is damaged."""
    whole, start = memoryview(encoded), len(SIGNATURE)
    while start + 12 <= len(whole):
        end = start + 12 + int.from_bytes(whole[start : start + 4], "big")
        if end > len(whole):
            return
        yield Chunk(bytes(whole[start + 4 : start + 8]), whole[start + 8 : end - 4], slice(start, end))
        start = end


def _unpacked(chunk: Chunk, most: int) -> bytes:
    """Unpack at most `most` bytes of a text or a profile; damaged ones are left to Pillow."""
    content = bytes(chunk.content)
    _, _, rest = content.partition(b"\0")
    if chunk.kind == b"iTXt":
        is_packed, rest = rest[:1] == b"\1", rest[2:]
        _, _, rest = rest.partition(b"\0")  # its language
        _, _, packed = rest.partition(b"\0")  # its name in that language
        if not is_packed:
            return content[:most]
    elif chunk.kind == b"tEXt":
        return content[:most]
    else:
        packed = rest[1:]
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return b""


def _without(encoded: bytes, places: list[slice]) -> bytes:
    if not places:
        return encoded
    starts = [0, *(place.stop for place in places)]
    ends = [*(place.start for place in places), len(encoded)]
    return b"".join(encoded[start:end] for start, end in zip(starts, ends, strict=True))
