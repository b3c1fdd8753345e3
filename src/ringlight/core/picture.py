"""Pictures that come from outside: opened with limits, turned, flattened and fitted. Pillow, no torch."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestLimits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


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
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InvalidRequest.of(
            "image", f"has more than {limits.max_image_pixels} pixels; send a smaller picture"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError):
        raise InvalidRequest.of("image", f"is not a picture that can be read ({', '.join(FORMATS)})") from None
    pixels = picture.width * picture.height
    if pixels > limits.max_image_pixels:
        raise InvalidRequest.of(
            "image",
            f"is {picture.width}x{picture.height}, {pixels} pixels; the limit is {limits.max_image_pixels}; "
            "send a smaller picture",
        )
    return picture


def fit_picture(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as RGB at exactly the asked size: EXIF turned, alpha flattened on white, resized, centre-cropped.

    Raises InvalidRequest when its pixels turn out damaged.
    """
    try:
        turned = ImageOps.exif_transpose(picture)
        if turned.mode.startswith("I"):
            # 16-bit greys: Pillow's own conversions clip them to white. A transparent grey among them is left opaque.
            turned.info.pop("transparency", None)
            turned = turned.convert("I").point(lambda value: value / 256).convert("L")
        elif turned.has_transparency_data:
            rgba = turned.convert("RGBA")
            turned = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return ImageOps.fit(turned.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        MemoryError,
        IndexError,
        TypeError,
        OverflowError,
    ) as error:
        raise InvalidRequest.of("image", f"is damaged and cannot be decoded: {error}") from None
