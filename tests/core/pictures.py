"""Encoded pictures for tests: Pillow's, and PNG written by hand where Pillow would not write what is needed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    width: int,
    height: int,
    rows: Iterable[bytes],
    *,
    bits: int,
    colour: int,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A PNG from raw rows (without their filter byte); `colour` 0 is grey, 2 RGB, 3 palette. Rows may be missing."""
    squeeze = zlib.compressobj(9)
    pixels = b"".join(squeeze.compress(b"\0" + row) for row in rows) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = (b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A black square picture of one bit a pixel: a few kilobytes that expand to `side` x `side` bytes."""
    row = bytes(side // 8)
    return png(side, side, (row for _ in range(side)), bits=1, colour=0)
