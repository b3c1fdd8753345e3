"""Pictures from outside: turned, flattened, fitted; and whatever is none refused before it can expand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ringlight.core.errors import InvalidRequest
from ringlight.core.picture import fit_picture, open_picture
from ringlight.core.request import RequestLimits
from ringlight.worker.memory import ResidentMeter
from tests.core.pictures import bomb, encoded, png

LIMITS = RequestLimits()
RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)
ORIENTATION = 0x0112


def fitted(content: bytes, width: int = 64, height: int = 32) -> Image.Image:
    picture = fit_picture(open_picture(content, LIMITS), width, height)
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    return picture


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), BLUE)
    picture.paste(RED, (0, 0, width // 2, height))
    return picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP"])
def test_every_kind_of_picture(kind: str) -> None:
    picture = fitted(encoded(halves(64, 32), kind))
    left, right = picture.getpixel((8, 16)), picture.getpixel((56, 16))
    assert np.abs(np.subtract(left, RED)).max() <= 6
    assert np.abs(np.subtract(right, BLUE)).max() <= 6


def test_a_real_photograph_keeps_its_aspect(photograph: Path) -> None:
    """512x600 asked as 256x160: scaled by a half to 256x300, of which rows 70 to 230 stay."""
    with Image.open(photograph) as whole:
        expected = whole.convert("RGB").resize((256, 300), Image.Resampling.LANCZOS).crop((0, 70, 256, 230))
    got = fitted(photograph.read_bytes(), 256, 160)
    difference = np.asarray(got, np.int16) - np.asarray(expected, np.int16)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    ("orientation", "red_corner"),
    [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")],
)
def test_a_picture_lies_as_its_camera_was_held(orientation: int, red_corner: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = orientation >= 5
    picture = fitted(encoded(halves(64, 32), "JPEG", exif=exif, quality=95), *((32, 64) if turned else (64, 32)))
    middle = {"left": (4, 16), "right": (59, 16), "top": (16, 4), "bottom": (16, 59)}[red_corner]
    assert np.abs(np.subtract(picture.getpixel(middle), RED)).max() <= 8


def test_transparency_is_flattened_on_white() -> None:
    half_red = Image.new("RGBA", (64, 32), (255, 0, 0, 128))
    assert np.abs(np.subtract(fitted(encoded(half_red)).getpixel((5, 5)), (255, 127, 127))).max() <= 1
    assert fitted(encoded(Image.new("RGBA", (64, 32), (0, 0, 0, 0)))).getpixel((5, 5)) == WHITE
    assert fitted(encoded(Image.new("LA", (64, 32), (0, 0)))).getpixel((5, 5)) == WHITE


def test_a_palette_with_a_transparent_colour() -> None:
    palette = halves(64, 32).quantize(2)
    red = palette.getpixel((0, 0))
    picture = fitted(encoded(palette, "PNG", transparency=red))
    assert picture.getpixel((8, 16)) == WHITE
    assert picture.getpixel((56, 16)) == BLUE


@pytest.mark.parametrize(
    "key", [(), ((b"tRNS", struct.pack(">H", 5)),)], ids=["opaque", "with a transparent grey that no pixel has"]
)
def test_sixteen_bit_greys_keep_their_range(key: tuple[tuple[bytes, bytes], ...]) -> None:
    """Pillow's own conversion clips them: all but the darkest 256 of 65,536 greys turn white."""
    ramp = np.tile(np.linspace(0, 65535, 64).astype(">u2"), (32, 1))
    picture = fitted(png(64, 32, (row.tobytes() for row in ramp), bits=16, colour=0, extra=key))
    assert np.abs(np.asarray(picture, np.int16)[..., 0] - (ramp >> 8).astype(np.int16)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.full((32, 64), 128 * 257, np.uint16)) if mode == "I;16" else halves(64, 32).convert(mode)
    fitted(encoded(grey, "TIFF"))


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (63, 31), (65, 33)])
def test_odd_sizes_are_fitted(size: tuple[int, int]) -> None:
    assert fitted(encoded(Image.new("RGB", size, GREY))).getpixel((63, 31)) == GREY


def test_what_is_cropped_is_cut_evenly() -> None:
    wide = Image.new("RGB", (128, 32), GREY)
    wide.paste(RED, (0, 0, 31, 32))
    wide.paste(BLUE, (97, 0, 128, 32))
    pixels = np.asarray(fitted(encoded(wide)))
    assert (pixels[:, 3:-3] == 128).all()


def test_the_first_of_many_pictures_counts() -> None:
    film = encoded(
        Image.new("RGB", (64, 32), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 32), BLUE)]
    )
    assert fitted(film).getpixel((5, 5)) == RED


@pytest.mark.parametrize("side", [12_000, 20_000], ids=["over our limit", "over Pillow's own limit too"])
def test_a_bomb_is_refused_without_expanding(side: int) -> None:
    content = bomb(side)
    assert len(content) < 200_000
    meter = ResidentMeter()
    meter.start()
    with pytest.raises(InvalidRequest, match="smaller picture"):
        open_picture(content, LIMITS)
    assert meter.report().resident_growth_bytes < side * side / 10


def test_limits_of_pixels_and_bytes() -> None:
    content = encoded(Image.new("RGB", (10, 10)))
    open_picture(content, RequestLimits(max_image_pixels=100, max_image_bytes=len(content)))
    with pytest.raises(InvalidRequest, match="10x10"):
        open_picture(content, RequestLimits(max_image_pixels=99))
    with pytest.raises(InvalidRequest, match=f"{len(content)} bytes"):
        open_picture(content, RequestLimits(max_image_bytes=len(content) - 1))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"not a picture\n" * 50,
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
    ],
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a picture"):
        open_picture(content, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_pictures_cut_short_are_refused(photograph: Path, kind: str) -> None:
    with Image.open(photograph) as picture:
        content = encoded(picture.resize((128, 150)), kind)
    for length in (len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(InvalidRequest):
            fitted(content[:length])


def refusal(content: bytes) -> str | None:
    """Why a picture is refused, or None where it can be read."""
    try:
        fitted(content)
    except InvalidRequest as error:
        return str(error)
    return None


def test_damaged_pictures_are_refused_or_read(photograph: Path) -> None:
    """Whatever is wrong with a picture, it comes out as a picture or as InvalidRequest: a seeded run of damage."""
    random = np.random.default_rng(0)
    with Image.open(photograph) as picture:
        small = picture.resize((48, 64))
    whole = [encoded(small, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
    refusals = []
    for number in range(300):
        content = bytearray(whole[number % len(whole)])
        for position in random.integers(0, len(content), size=1 + number % 4):
            content[position] = random.integers(0, 256)
        refusals.append(refusal(bytes(content)))
    told = [message for message in refusals if message is not None]
    assert 30 < len(told) < 270
    assert not any("\n" in message for message in told)
