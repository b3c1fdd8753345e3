"""Pictures from outside: turned, flattened, fitted; and whatever is none refused before it can expand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ringlight.core.errors import InvalidRequest
from ringlight.core.picture import fit_picture, open_picture, upright_size
from ringlight.core.request import RequestLimits
from ringlight.worker.memory import ResidentMeter
from tests.core.pictures import bomb, encoded, png
from tests.core.profiles import DISPLAY_P3, SRGB, SWAPPED, cmyk_profile, grey_profile, rgb_profile

Rgb = tuple[int, int, int]

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


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP", "AVIF"])
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


# Colours


P3_COLOURS = [((220, 40, 30), (240, 0, 0)), ((60, 160, 60), (0, 163, 40)), ((210, 160, 130), (219, 157, 125))]


@pytest.mark.parametrize(("colour", "expected"), P3_COLOURS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_colours_of_an_iphones_photograph(kind: str, colour: Rgb, expected: Rgb) -> None:
    """Display P3, as a reader that manages colours shows it."""
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.new("RGB", (64, 32), colour), kind, icc_profile=rgb_profile(DISPLAY_P3), **options)
    assert np.abs(np.subtract(fitted(content).getpixel((5, 5)), expected)).max() <= 1


def test_what_is_srgb_already_is_not_touched() -> None:
    """To the bit, whoever wrote the profile."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))
    plain = fitted(encoded(noise))
    for profile in (rgb_profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        assert fitted(encoded(noise, icc_profile=profile)).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "profile",
    [b"garbage", rgb_profile(SWAPPED)[:200], rgb_profile(SWAPPED)[:-8], cmyk_profile((50, 0, 0)), grey_profile(1.0)],
    ids=["garbage", "half a profile", "its end is missing", "of inks", "of greys"],
)
def test_a_profile_that_cannot_be_used_is_ignored(profile: bytes) -> None:
    assert fitted(encoded(Image.new("RGB", (64, 32), (220, 40, 30)), icc_profile=profile)).getpixel((5, 5)) in (
        (220, 40, 30),
        (30, 40, 220),  # where the engine takes what is there
    )


def test_profiles_of_greys_and_of_inks() -> None:
    grey = encoded(Image.new("L", (64, 32), 128), icc_profile=grey_profile(1.0))
    assert fitted(grey).getpixel((5, 5)) == (188, 188, 188)  # half of the light
    for ink, expected in (((255, 0, 0, 0), (0, 133, 186)), ((0, 0, 0, 0), WHITE)):
        inks = encoded(Image.new("CMYK", (64, 32), ink), "TIFF", icc_profile=cmyk_profile((50, -30, -40)))
        assert np.abs(np.subtract(fitted(inks).getpixel((5, 5)), expected)).max() <= 1


def test_a_transparent_picture_with_a_profile() -> None:
    red = encoded(Image.new("RGBA", (64, 32), (220, 40, 30, 255)), icc_profile=rgb_profile(SWAPPED))
    clear = encoded(Image.new("RGBA", (64, 32), (220, 40, 30, 0)), icc_profile=rgb_profile(SWAPPED))
    assert (fitted(red).getpixel((5, 5)), fitted(clear).getpixel((5, 5))) == ((30, 40, 220), WHITE)


# Long texts and profiles of a PNG


def packed_text(length: int) -> tuple[bytes, bytes]:
    return b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * length)


def a_png(*extra: tuple[bytes, bytes]) -> bytes:
    return png(64, 32, (bytes((220, 40, 30)) * 64 for _ in range(32)), bits=8, colour=2, extra=extra)


@pytest.mark.parametrize(
    "text",
    [
        packed_text(3 * 2**20),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 2**20)),
        (b"tEXt", b"Comment\0" + b"a" * 3 * 2**20),
    ],
    ids=["packed", "international", "plain"],
)
def test_a_long_text_does_not_matter(text: tuple[bytes, bytes]) -> None:
    assert fitted(a_png(text, packed_text(100))).getpixel((5, 5)) == (220, 40, 30)


def test_a_long_profile_is_used() -> None:
    profile = b"scanner\0\0" + zlib.compress(rgb_profile(SWAPPED, padding=3 * 2**20))
    assert fitted(a_png((b"iCCP", profile))).getpixel((5, 5)) == (30, 40, 220)


def test_texts_that_are_a_bomb_are_refused_before_they_expand() -> None:
    alone, many = a_png(packed_text(2**25)), a_png(*[packed_text(2**21)] * 70)
    assert max(len(alone), len(many)) < 2**18
    meter = ResidentMeter()
    meter.start()
    with pytest.raises(InvalidRequest, match="texts"):
        open_picture(many, LIMITS)
    fitted(alone)  # without it
    assert meter.report().resident_growth_bytes < 2**25


def test_exif_behind_the_pixels_counts() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = a_png()
    chunk = exif.tobytes()[6:]
    late = struct.pack(">I", len(chunk)) + b"eXIf" + chunk + struct.pack(">I", zlib.crc32(b"eXIf" + chunk))
    assert upright_size(content, LIMITS) == (64, 32)
    assert upright_size(content[:-12] + late + content[-12:], LIMITS) == (32, 64)


# Greys of many bits


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floats_keep_their_range(white: float) -> None:
    ramp = np.tile(np.linspace(0, white, 64, dtype=np.float32), (32, 1))
    shown = np.asarray(fitted(encoded(Image.fromarray(ramp), "TIFF")), np.int16)[..., 0]
    assert np.abs(shown - np.floor(ramp / white * 255).astype(np.int16)).max() <= 1


def test_glare_over_white_does_not_darken_the_rest() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    ramp[:, 63] = 1.5
    assert fitted(encoded(Image.fromarray(ramp), "TIFF")).getpixel((32, 16))[0] in range(126, 132)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiffs_keep_their_range(order: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(order), (32, 1))
    shown = np.asarray(fitted(encoded(Image.fromarray(ramp), "TIFF")), np.int16)[..., 0]
    assert np.abs(shown - (ramp.astype(np.int32) >> 8)).max() <= 1


# Shapes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_upright_size_is_as_the_camera_was_held(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert upright_size(encoded(halves(64, 32), kind, exif=exif), LIMITS) == (32, 64)
    exif[ORIENTATION] = 3
    assert upright_size(encoded(halves(64, 32), kind, exif=exif), LIMITS) == (64, 32)


def test_damaged_exif_turns_nothing() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(halves(64, 32), "JPEG", exif=exif)
    assert upright_size(content.replace(b"MM\0*", b"MMMM"), LIMITS) == (64, 32)


# What is none


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    buffer = io.BytesIO()
    heif.from_pillow(halves(128, 64)).save(buffer, quality=90)
    picture = fitted(buffer.getvalue())
    assert np.abs(np.subtract(picture.getpixel((8, 16)), RED)).max() <= 12
    assert upright_size(buffer.getvalue(), LIMITS) == (128, 64)
    with pytest.raises(InvalidRequest, match="HEIC picture that is damaged"):
        open_picture(buffer.getvalue()[:200], LIMITS)


def box(brand: bytes, *others: bytes) -> bytes:
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(64)


NAMES = [
    (box(b"heic", b"mif1"), "HEIC"),
    (box(b"mif1", b"heic"), "HEIC"),
    (box(b"mif1", b"avif"), "AVIF"),
    (box(b"isom", b"mp42"), "an MP4 or QuickTime video"),
    (box(b"qt  "), "an MP4 or QuickTime video"),
    (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "a JPEG 2000 picture"),
    (b"\xff\x0a" + bytes(64), "a JPEG XL picture"),
    (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    (b"\x1a\x45\xdf\xa3" + bytes(64), "a WebM or Matroska video"),
    (b"%PDF-1.7", "a PDF document"),
    (b"<!DOCTYPE html><title>Not found</title>", "a web page"),
    (b"data:image/png;base64,iVBORw0", "the text of a data URL"),
]


@pytest.mark.parametrize(("content", "name"), NAMES, ids=[name for _, name in NAMES])
def test_what_cannot_be_read_is_called_by_its_name(content: bytes, name: str) -> None:
    """And what to do with it is said."""
    with pytest.raises(InvalidRequest, match=name) as caught:
        open_picture(content, LIMITS)
    assert any(word in str(caught.value) for word in ("PNG", "damaged", "send", "unpack"))


def test_no_other_decoder_is_opened(photograph: Path) -> None:
    """Pillow could read these; each would be one more that the network reaches."""
    with Image.open(photograph) as picture:
        small = picture.resize((32, 32))
    for kind in ("JPEG2000", "TGA", "PCX", "ICO", "PPM", "PDF", "DDS", "SGI", "QOI", "ICNS"):
        with pytest.raises(InvalidRequest, match="not a picture"):
            open_picture(encoded(small, kind), LIMITS)


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
