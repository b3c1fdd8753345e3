"""Pictures that come from outside: opened with limits, turned, flattened and fitted. Pillow, no torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from PIL import Image, ImageOps, UnidentifiedImageError

from ringlight.core import png_chunks
from ringlight.core.colour import to_srgb
from ringlight.core.errors import InvalidRequest, Problem
from ringlight.core.picture_kinds import HEIC, kind_of
from ringlight.core.request import RequestLimits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError)
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError, TypeError, OverflowError)

ORIENTATION = 0x0112
LYING = (5, 6, 7, 8)  # orientations that swap width and height
WHITES = (1.0, 255.0, 65535.0)  # what the brightest may be in a picture of floats


def readable() -> tuple[str, ...]:
    """The formats that are read here; HEIC where its reader is installed."""
    return (*FORMATS, "HEIC") if find_spec("pillow_heif") else FORMATS


def open_picture(encoded: bytes, limits: RequestLimits) -> Image.Image:
    """Open a picture without decoding its pixels. Raises InvalidRequest when it is none or too large.

    Only the header is read, so a bomb (a small file of very many pixels) is refused before it can expand.
    """
    if len(encoded) > limits.max_image_bytes:
        raise InvalidRequest.of(
            "image",
            f"has {len(encoded)} bytes; the limit is {limits.max_image_bytes}; send a smaller picture",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, which we refuse ourselves, and of formats that are missing
            picture = _opened(encoded)
    except Image.DecompressionBombError:
        raise InvalidRequest.of(
            "image", f"has more than {limits.max_image_pixels} pixels; send a smaller picture"
        ) from None
    except UNREADABLE:
        raise InvalidRequest.of("image", _why_not(encoded)) from None
    pixels = picture.width * picture.height
    if pixels > limits.max_image_pixels:
        raise InvalidRequest.of(
            "image",
            f"is {picture.width}x{picture.height}, {pixels} pixels; the limit is {limits.max_image_pixels}; "
            "send a smaller picture",
        )
    return picture


@contextmanager
def about(field: str) -> Iterator[None]:
    """Attribute errors about a picture in this context to a field of the request."""
    try:
        yield
    except InvalidRequest as error:
        raise error.about(field) from None


def upright_size(encoded: bytes, limits: RequestLimits) -> tuple[int, int]:
    """Width and height in pixels once it is turned as its camera was held. Raises InvalidRequest as open_picture."""
    with open_picture(encoded, limits) as picture:
        if picture.format == "TIFF":  # whose size Pillow has turned already
            return picture.size
        try:
            # Not the format's own way to EXIF, which decodes a PNG to look behind its pixels: _opened has looked.
            orientation = Image.Image.getexif(picture).get(ORIENTATION)
        except Exception:  # EXIF is damaged in many ways, and no reason to refuse a picture
            orientation = None
        return picture.size[::-1] if orientation in LYING else picture.size


def shape_of(encoded: bytes | None, limits: RequestLimits) -> tuple[int, int] | None:
    """Upright size (width, height) of a picture; None without one, and for an invalid one, which a check reports."""
    try:
        return None if encoded is None else upright_size(encoded, limits)
    except InvalidRequest:
        return None


def shapes_of(pictures: Mapping[str, bytes], limits: RequestLimits) -> dict[str, tuple[int, int] | None]:
    """The upright sizes of pictures by their fields, as `shape_of` has them."""
    return {name: shape_of(picture, limits) for name, picture in pictures.items()}


def require_pictures(pictures: Mapping[str, bytes], limits: RequestLimits) -> None:
    """Raise InvalidRequest for pictures that cannot be opened, each under its field."""
    problems: list[Problem] = []
    for name, picture in pictures.items():
        try:
            open_picture(picture, limits)
        except InvalidRequest as error:
            problems += error.about(name).problems
    if problems:
        raise InvalidRequest(problems)


def fit_picture(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Fit a picture as sRGB to exactly the asked size: EXIF turned, alpha flattened on white, resized, centre-cropped.

    Raises InvalidRequest when its pixels turn out damaged.
    """
    try:
        profile = picture.info.get("icc_profile")
        whole = _flattened(ImageOps.exif_transpose(picture))
        if not (profile and whole.mode in ("L", "CMYK")):  # those keep their own colours, for the profile to convert
            whole = whole.convert("RGB")
        return to_srgb(ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS), profile)
    except DAMAGED as error:
        raise InvalidRequest.of("image", f"is damaged and cannot be decoded: {error}") from None


def middle_square(picture: Image.Image, side: int) -> Image.Image:
    """Crop the middle of a picture as sRGB, its shorter side resized to `side` pixels, as CLIP's own processor does.

    Raises InvalidRequest when its pixels turn out damaged.
    """
    whole = fit_picture(picture, *_upright(picture).size)
    shorter = min(whole.size)
    wide, high = (side if length == shorter else int(side * length / shorter) for length in whole.size)
    resized = whole.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - side) // 2, (high - side) // 2
    return resized.crop((left, top, left + side, top + side))


def _upright(picture: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(picture)


def _opened(encoded: bytes) -> Image.Image:
    """Open a picture. Raises whatever Pillow does, and InvalidRequest."""
    if kind_of(encoded) == HEIC and find_spec("pillow_heif"):
        from pillow_heif.as_plugin import HeifImageFile  # an extra; and not Pillow's to try for whatever comes

        picture: Image.Image = HeifImageFile(io.BytesIO(encoded))
        return picture
    if not encoded.startswith(png_chunks.SIGNATURE):
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    png = png_chunks.prepare(encoded)
    picture = Image.open(io.BytesIO(png.encoded), formats=("PNG",))
    if png.profile is not None:
        picture.info["icc_profile"] = png.profile
    if png.exif is not None:
        picture.info["exif"] = b"Exif\0\0" + png.exif
    return picture


def _why_not(encoded: bytes) -> str:
    read = ", ".join(readable())
    if (kind := kind_of(encoded)) is None:
        return f"is not a picture that can be read ({read})"
    if kind == HEIC and find_spec("pillow_heif"):
        return "is a HEIC picture that is damaged and cannot be decoded"
    return f"is {kind.name}, not a picture that can be read ({read}); {kind.remedy}"


def _flattened(picture: Image.Image) -> Image.Image:
    """Convert to eight bits without transparency."""
    if picture.mode.startswith("I"):
        # 16-bit greys: Pillow's own conversions clip them to white. A transparent grey among them is left opaque.
        picture.info.pop("transparency", None)
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode == "F":
        most = picture.getextrema()[1]
        assert isinstance(most, float)
        scale = 255 / next((white for white in WHITES if most < 2 * white), most)  # glare may be brighter than white
        return picture.point(lambda value: value * scale).convert("L")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture
