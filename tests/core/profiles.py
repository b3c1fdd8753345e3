"""Colour profiles made by hand, as few bytes as a colour engine takes (ICC.1:2010)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

XYZ = tuple[float, float, float]

D50 = (0.9642, 1.0, 0.8249)
SRGB: tuple[XYZ, XYZ, XYZ] = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3: tuple[XYZ, XYZ, XYZ] = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
SWAPPED = (SRGB[2], SRGB[1], SRGB[0])
"""sRGB with its red and blue primaries exchanged."""

CURVE = struct.pack(
    ">4sIHH5i", b"para", 0, 3, 0, *(round(65536 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def rgb_profile(primaries: Sequence[XYZ], padding: int = 0) -> bytes:
    """Of these primaries (adapted to D50) with sRGB's curve; `padding` bytes make it as long as scanners' are."""
    tags = [(name, _xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    tags += [(name, CURVE) for name in (b"rTRC", b"gTRC", b"bTRC")]
    noise = bytes(number * 167 % 251 for number in range(padding))
    return _profile(b"RGB ", b"XYZ ", [(b"wtpt", _xyz(D50)), *tags, *([(b"priv", noise)] if padding else [])])


def grey_profile(gamma: float) -> bytes:
    """Of greys with a plain power for their curve."""
    curve = struct.pack(">4sIIH", b"curv", 0, 1, round(256 * gamma)) + b"\0\0"
    return _profile(b"GRAY", b"XYZ ", [(b"wtpt", _xyz(D50)), (b"kTRC", curve)])


def cmyk_profile(cyan: tuple[int, int, int]) -> bytes:
    """Of inks: none is white, cyan alone has this colour in CIELAB, and any other ink makes black."""
    straight = bytes(range(256))
    grid = b""
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        lightness, a, b = (0, 0, 0) if m or y or k else cyan if c else (100, 0, 0)
        grid += bytes((round(lightness * 2.55), a + 128, b + 128))
    identity = (65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = struct.pack(">4sIBBBB9i", b"mft1", 0, 4, 3, 2, 0, *identity) + straight * 4 + grid + straight * 3
    return _profile(b"CMYK", b"Lab ", [(b"wtpt", _xyz(D50)), (b"A2B0", table)], kind=b"prtr")


def _xyz(value: XYZ) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(65536 * number) for number in value))


def _profile(space: bytes, connection: bytes, tags: Sequence[tuple[bytes, bytes]], kind: bytes = b"mntr") -> bytes:
    place = 128 + 4 + 12 * len(tags)
    table, contents = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, place + len(contents), len(content))
        contents += content
    size = place + len(contents)
    head = struct.pack(">I4sI4s4s4s12x4s28x", size, b"none", 0x04300000, kind, space, connection, b"acsp")
    head += struct.pack(">3i", *(round(65536 * number) for number in D50))
    return head.ljust(128, b"\0") + table + contents
