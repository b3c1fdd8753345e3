"""First frames that are damaged, lie about their size, or grow: refused, or taken at a small cost."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestLimits
from ringlight.server.safety.apart import check_apart
from ringlight.server.safety.pictures import check_picture
from ringlight.worker.memory import ResidentMeter
from tests.server.calling import png


@pytest.mark.parametrize("side", [64, pytest.param(4000, marks=pytest.mark.slow)])
def test_a_header_that_lies_binds_no_decoder(side: int) -> None:
    """A kilobyte of AVIF that says 64x64: its pixels are decoded apart from the server, as much as there are."""
    content = bytearray(png(side, side, kind="AVIF", speed=10) if side == 64 else flat_avif(side))
    place = content.find(b"ispe") + 8
    content[place : place + 8] = struct.pack(">II", 64, 64)
    meter = ResidentMeter()
    meter.start()
    check_picture(bytes(content), 64, 64, RequestLimits())
    assert meter.report().resident_growth_bytes < 2**24


@pytest.mark.slow
def test_what_takes_too_much_apart_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="64 MiB"):
        check_apart(flat_avif(3000), RequestLimits(), 2**26)
    with pytest.raises(InvalidRequest, match="damaged"):
        check_picture(png(64, 64, kind="AVIF")[:-40], 64, 64, RequestLimits())


def flat_avif(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 30)).save(buffer, "AVIF", speed=10)
    return buffer.getvalue()


KINDS = {
    "png": ("RGB", "PNG", {}),
    "png16": ("I;16", "PNG", {}),
    "png1": ("1", "PNG", {}),
    "pngp": ("P", "PNG", {}),
    "pngla": ("LA", "PNG", {}),
    "jpeg": ("RGB", "JPEG", {}),
    "cmyk": ("CMYK", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "webp": ("RGBA", "WEBP", {"lossless": True}),
    "bmp": ("RGB", "BMP", {}),
    "gif": ("P", "GIF", {}),
    "tiff": ("RGB", "TIFF", {}),
    "lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about metadata
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures(kind: str) -> None:
    """Cut anywhere they are refused (but for a few last bytes); with a byte changed they are refused or can be used."""
    mode, format_name, options = KINDS[kind]
    whole = png(90, 70, mode, format_name, **options)
    limits, dice = RequestLimits(), random.Random(kind)
    check_picture(whole, 64, 64, limits)
    for length in {0, 1, 8, 20, *(dice.randrange(int(0.97 * len(whole))) for _ in range(20))}:
        with pytest.raises(InvalidRequest) as caught:
            check_picture(whole[:length], 64, 64, limits)
        assert [problem.field for problem in caught.value.problems] == ["image"]
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(dice.randrange(1, 20)):
            damaged[dice.randrange(len(damaged) if dice.random() < 0.5 else 60)] = dice.randrange(256)
        try:
            check_picture(bytes(damaged), 64, 64, limits)
        except InvalidRequest:
            num_refused += 1
    assert num_refused > 10


BOMBS = """
import io, json, resource, sys, zlib
from PIL import Image
from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestLimits
from ringlight.server.safety.pictures import check_picture

def chunk(kind, content):
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

def png(width, height, depth, colours, row_bytes):
    packer, rows = zlib.compressobj(9), []
    for _ in range(height):
        rows.append(packer.compress(bytes(1 + row_bytes)))
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((depth, colours, 0, 0, 0))
    pixels = b"".join(rows) + packer.flush()
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

def saved(size, kind, **options):
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind, **options)
    return buffer.getvalue()

text = chunk(b"zTXt", b"a\\0\\0" + zlib.compress(bytes(300_000_000), 9))
small = png(8, 8, 8, 2, 24)
pictures = {
    "12000x12000, 1 bit": png(12000, 12000, 1, 0, 1500),
    "9990x9990, 1 bit": png(9990, 9990, 1, 0, 1249),
    "7100x7100, 1 bit": png(7100, 7100, 1, 0, 888),
    "text": small[:33] + text + small[33:],
    "gif": saved((9900, 9900), "GIF"),
    "webp": saved((9000, 9000), "WEBP", lossless=True, quality=0),
    "progressive": saved((9900, 9900), "JPEG", progressive=True),
    "largest": png(6900, 6900, 1, 0, 863),
}
limits, found = RequestLimits(), {}
for name, encoded in pictures.items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        check_picture(encoded, 64, 64, limits)
        answer = "taken"
    except InvalidRequest as error:
        answer = str(error)
    found[name] = [len(encoded), answer, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_small_files_that_grow(tmp_path: Path) -> None:
    """In a process of its own, whose memory can be seen; the ones made first are made for far less than they claim."""
    run = subprocess.run([sys.executable, "-c", BOMBS], check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(run.stdout)
    assert found["12000x12000, 1 bit"][0] < 20_000
    for name, (_, answer, grown_bytes) in found.items():
        assert grown_bytes < 200_000_000, (name, grown_bytes)
        assert (answer == "taken") == (name in ("largest", "text")), (name, answer)
