"""Two hundred pictures that somebody might send: damaged ones, ones that only pretend, and right ones of rare kinds."""

from __future__ import annotations

import io
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from tests.core.pictures import bomb, encoded, png

Fate = Literal["taken", "refused", "either"]
"""What must become of it; `either` where a damage may leave a picture that can be decoded."""

COUNT = 200
SIZE = (96, 80)


class Sent(NamedTuple):
    """A picture: what it is, its bytes, and its fate."""

    name: str
    content: bytes
    fate: Fate


def damaged(seed: int) -> list[Sent]:
    """COUNT pictures; the same seed gives the same bytes with the same Pillow."""
    chance = random.Random(seed)
    found = [*rare(chance), *empty(), *bombs(), *pretenders(chance), *wrong_lengths(chance)]
    makers = (truncated, flipped, overwritten, spliced)
    while len(found) < COUNT:
        found.append(makers[len(found) % len(makers)](chance))
    assert len({sent.content for sent in found}) == len(found) == COUNT
    return found


def textured(chance: random.Random, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that no encoder makes small: noise."""
    noise = np.frombuffer(chance.randbytes(size[0] * size[1] * 4), np.uint8).reshape(size[1], size[0], 4)
    return Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)


FORMATS: dict[str, Callable[[random.Random], bytes]] = {
    "png": lambda chance: encoded(textured(chance)),
    "grey png": lambda chance: encoded(textured(chance, "L")),
    "palette png": lambda chance: encoded(textured(chance, "P")),
    "jpeg": lambda chance: encoded(textured(chance), "JPEG", quality=90),
    "progressive jpeg": lambda chance: encoded(textured(chance), "JPEG", progressive=True),
    "webp": lambda chance: encoded(textured(chance), "WEBP"),
    "lossless webp": lambda chance: encoded(textured(chance), "WEBP", lossless=True),
    "bmp": lambda chance: encoded(textured(chance), "BMP"),
    "gif": lambda chance: encoded(textured(chance, "P"), "GIF"),
    "tiff": lambda chance: encoded(textured(chance), "TIFF"),
    "lzw tiff": lambda chance: encoded(textured(chance), "TIFF", compression="tiff_lzw"),
    "deflated tiff": lambda chance: encoded(textured(chance), "TIFF", compression="tiff_adobe_deflate"),
}


def rare(chance: random.Random) -> Iterator[Sent]:
    """Right pictures of kinds that few send."""

    def taken(name: str, picture: Image.Image, kind: str = "PNG", **options: Any) -> Sent:
        return Sent(name, encoded(picture, kind, **options), "taken")

    frames = [textured(chance) for _ in range(3)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        yield taken(f"animated {kind}", frames[0], kind, save_all=True, append_images=frames[1:])
    deep = np.frombuffer(chance.randbytes(SIZE[0] * SIZE[1] * 2), np.uint16).reshape(SIZE[1], SIZE[0])
    yield taken("16-bit grey PNG", Image.fromarray(deep))
    yield taken("16-bit grey TIFF", Image.fromarray(deep), "TIFF")
    rows = (chance.randbytes(SIZE[0] * 6) for _ in range(SIZE[1]))
    yield Sent("16-bit RGB PNG", png(*SIZE, rows, bits=16, colour=2), "taken")
    yield taken("floating TIFF", Image.fromarray(deep.astype(np.float32)), "TIFF")
    yield taken("CMYK JPEG", textured(chance, "CMYK"), "JPEG")
    yield taken("CMYK TIFF", textured(chance, "CMYK"), "TIFF")
    yield taken("palette GIF with a transparent colour", textured(chance, "P"), "GIF", transparency=3)
    yield taken("palette PNG with transparencies", textured(chance, "P"), transparency=chance.randbytes(200))
    yield taken("grey PNG with alpha", textured(chance, "LA"))
    yield taken("WebP with alpha", textured(chance, "RGBA"), "WEBP")
    yield taken("1-bit PNG", textured(chance, "1"))
    yield taken("1-bit fax TIFF", textured(chance, "1"), "TIFF", compression="group4")
    yield taken("Lab TIFF", textured(chance, "LAB"), "TIFF", icc_profile=None)
    yield taken("one pixel", textured(chance, size=(1, 1)))
    yield taken("one row", textured(chance, size=(3000, 1)))
    yield taken("one column", textured(chance, size=(1, 3000)))
    turned = Image.Exif()
    turned[0x0112] = 6
    yield taken("turned JPEG", textured(chance), "JPEG", exif=turned)
    yield taken("JPEG of an impossible turn", textured(chance), "JPEG", exif=_exif(0x0112, 99))
    yield taken("PNG with a zip behind it", textured(chance))._replace(content=encoded(frames[1]) + _zip())
    yield Sent("JPEG with a page behind it", encoded(frames[2], "JPEG") + b"<html><script>1</script>", "taken")


def _exif(tag: int, value: int) -> Image.Exif:
    found = Image.Exif()
    found[tag] = value
    return found


def _zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("../../evil"), "x")
    return packed.getvalue()


def empty() -> Iterator[Sent]:
    """Pictures of no pixels, and files of hardly a byte."""
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    yield Sent("a byte", b"\x89", "refused")
    yield Sent("a signature of PNG", b"\x89PNG\r\n\x1a\n", "refused")
    yield Sent("a signature of JPEG", b"\xff\xd8\xff", "refused")
    yield Sent("a signature of TIFF", b"II*\0", "refused")
    yield Sent("zeros", bytes(10_000), "refused")
    yield Sent("PNG of 0x0", png(0, 0, [], bits=8, colour=2), "refused")
    yield Sent("PNG of 8x0", png(8, 0, [], bits=8, colour=2), "refused")
    yield Sent("PNG of no pixels' data", png(64, 64, [], bits=8, colour=2), "refused")
    yield Sent("BMP of 0x0", header, "refused")
    yield Sent("GIF of 0x0", b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x00;", "refused")
    yield Sent("GIF without a frame", b"GIF89a\x08\x00\x08\x00\x00\x00\x00;", "refused")


def bombs() -> Iterator[Sent]:
    """Little files of very much."""
    yield Sent("PNG of 411 MiB", bomb(20_752), "refused")
    yield Sent("PNG of 9,000 x 9,000", bomb(9_000), "refused")
    wide = png(2**31 - 1, 2**31 - 1, [b""], bits=8, colour=6)
    yield Sent("PNG of 2^62 pixels", wide, "refused")
    yield Sent("PNG of one endless row", png(2**31 - 1, 1, [b""], bits=16, colour=6), "refused")
    grey = Image.new("L", (65_500, 1_500))
    yield Sent("JPEG of 98 megapixels", _resized_jpeg(grey, 65_500, 65_500), "refused")
    yield Sent("GIF of 65,535 x 65,535", _gif_screen(65_535), "refused")
    yield Sent("WebP of 16,383 x 16,383", _huge_webp(), "refused")
    yield Sent("BMP of 2^31 - 1", _bmp(2**31 - 1, 2**31 - 1), "refused")
    yield Sent("BMP of a negative width", _bmp(-64, 64), "refused")
    yield Sent("TIFF of 2^32 - 1", _tiff(2**32 - 1, 2**32 - 1), "refused")
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 8_000_000, zip=True)
    yield Sent("PNG of 8 MB of text", encoded(Image.new("RGB", (8, 8)), pnginfo=text), "taken")
    profile = zlib.compress(bytes(64_000_000))
    chunk = (b"iCCP", b"p\0\0" + profile)
    yield Sent("PNG of a 64 MB profile", png(8, 8, [bytes(24)] * 8, bits=8, colour=2, extra=(chunk,)), "either")


def _resized_jpeg(picture: Image.Image, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    content = bytearray(encoded(picture, "JPEG", quality=1))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content[:20_000])


def _gif_screen(side: int) -> bytes:
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, side, side, 0)
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame + b"\x02\x02\x44\x01\x00;"


def _huge_webp() -> bytes:
    """A lossless one with a header alone."""
    bits = 16_382 | 16_382 << 14
    body = b"VP8L" + struct.pack("<IB", 20, 0x2F) + struct.pack("<I", bits) + bytes(15)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1000, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(
        1000
    )


def _tiff(width: int, height: int, **entries: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 2**32 - 1}
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()
    )
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)


def pretenders(chance: random.Random) -> Iterator[Sent]:
    """Other things in a picture's place; some of them Pillow would open, with another program even."""
    small = textured(chance, size=(16, 16))
    yield Sent("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "refused")
    entity = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'
    yield Sent("SVG of entities", entity.encode(), "refused")
    yield Sent("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "refused")
    yield Sent("PDF", encoded(small, "PDF", creationDate=time.gmtime(0), modDate=time.gmtime(0)), "refused")
    for kind in ("ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "IM", "SPIDER", "JPEG2000", "XBM", "MSP"):
        picture = small.convert({"SPIDER": "F", "XBM": "1", "MSP": "1"}.get(kind, "RGB"))
        yield Sent(kind, encoded(picture, kind), "refused")
    yield Sent("zip", _zip(), "refused")
    yield Sent("page", b"<!DOCTYPE html><title>404</title>" * 40, "refused")
    yield Sent("text", "Ünicode".encode() * 100, "refused")
    yield Sent("pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93.", "refused")
    yield Sent("noise", chance.randbytes(50_000), "refused")
    yield Sent("film", struct.pack(">I4s4sI", 20, b"ftyp", b"isom", 512) + b"isom" + bytes(1000), "refused")
    yield Sent("AVIF by its brand", struct.pack(">I4s4sI", 20, b"ftyp", b"avif", 0) + b"avif" + bytes(99), "refused")
    yield Sent("page and GIF", b"GIF89a/*<script>" + bytes(200) + b"*/=1;", "refused")
    yield Sent("page before a JPEG", b"<html>" + encoded(small, "JPEG"), "refused")
    yield Sent("gzip of a PNG", zlib.compress(encoded(small), wbits=31), "refused")
    yield Sent("PNG in base64", b"data:image/png;base64,iVBORw0KGgo=", "refused")


def wrong_lengths(chance: random.Random) -> Iterator[Sent]:
    """Pictures whose headers lie about how long things are."""
    for length in (0, 1, 12, 14, 2**31 - 1, 2**32 - 1):
        content = bytearray(encoded(textured(chance)))
        content[8:12] = struct.pack(">I", length)
        yield Sent(f"PNG whose IHDR has {length} bytes", bytes(content), "refused")
    fates: dict[int, Fate] = {0: "refused", 1: "refused", 2**31 - 1: "either", 2**32 - 1: "either"}
    for length, fate in fates.items():
        content = bytearray(encoded(textured(chance)))
        start = content.index(b"IDAT") - 4
        content[start : start + 4] = struct.pack(">I", length)
        yield Sent(f"PNG whose IDAT has {length} bytes", bytes(content), fate)
    for marker, name in ((b"\xff\xc0", "frame"), (b"\xff\xdb", "tables"), (b"\xff\xc4", "codes")):
        for length in (0, 2, 3, 65_535):
            content = bytearray(encoded(textured(chance), "JPEG"))
            start = content.index(marker) + 2
            content[start : start + 2] = struct.pack(">H", length)
            yield Sent(f"JPEG of {name} of {length} bytes", bytes(content), "either")
    for offset in (0, 4, 2**31 - 1, 2**32 - 1):
        content = bytearray(encoded(textured(chance), "TIFF"))
        content[4:8] = struct.pack("<I", offset)
        yield Sent(f"TIFF with its directory at {offset}", bytes(content), "refused")
    for length in (0, 2**32 - 1):
        content = bytearray(encoded(textured(chance), "WEBP"))
        content[16:20] = struct.pack("<I", length)
        yield Sent(f"WebP of a chunk of {length} bytes", bytes(content), "refused")


def truncated(chance: random.Random) -> Sent:
    """One that ends early."""
    name, content = _any(chance)
    kept = chance.randrange(1, len(content) * 9 // 10)
    return Sent(f"{name}, {kept} of {len(content)} bytes", content[:kept], "refused")


def flipped(chance: random.Random) -> Sent:
    """One with bits turned round."""
    name, content = _any(chance)
    changed = bytearray(content)
    num_bits = chance.choice((1, 4, 16, 64))
    for _ in range(num_bits):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return Sent(f"{name} with {num_bits} bits flipped", bytes(changed), "either")


def overwritten(chance: random.Random) -> Sent:
    """One with a run of its first bytes, where headers are, replaced."""
    name, content = _any(chance)
    start, length = chance.randrange(4, 200), chance.choice((1, 2, 4, 30))
    filling = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return Sent(
        f"{name} with {length} bytes at {start}", content[:start] + filling + content[start + length :], "either"
    )


def spliced(chance: random.Random) -> Sent:
    """The beginning of one and the end of another."""
    (first, head), (second, tail) = _any(chance), _any(chance)
    cut = chance.randrange(30, min(len(head), len(tail)))
    return Sent(f"{first} that goes on as {second} after {cut} bytes", head[:cut] + tail[cut:], "either")


def _any(chance: random.Random) -> tuple[str, bytes]:
    name = chance.choice(list(FORMATS))
    return name, FORMATS[name](chance)
