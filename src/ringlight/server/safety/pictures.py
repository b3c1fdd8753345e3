"""First frames from outside: as base64, and the check that a picture is whole before its job is accepted."""

from __future__ import annotations

import binascii
import io
import re

from PIL import Image

from ringlight.core.errors import InvalidRequest
from ringlight.core.picture import fit_picture, open_picture
from ringlight.core.request import RequestLimits
from ringlight.server.safety import apart

MAX_DECODED_BYTES = 196_000_000  # a PNG of 49 megapixels, a WebP of 12, a JPEG of nearly any size
CORNER_PIXELS = 64
DATA_URL = re.compile(r"data:([a-z0-9.+/-]*)((?:;[a-z0-9.+=\"_-]+)*?);base64,", re.IGNORECASE)
DATA_URL_HEAD_CHARS = 256
BARE_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]{64}")  # longer than a path that somebody took for an address
LINE_BREAKS = ("\n", "\r")
BASE64_CHUNK_CHARS = 4 * 2**20
MEDIA_TYPES = ("", "application/octet-stream")  # beside image/*

PIXEL_BYTES = {"WEBP": 16, "TIFF": 8}  # held while decoding, measured with Pillow 13; of other formats 4
PROGRESSIVE_PIXEL_BYTES = 6  # of coefficients, beside the pixels


def is_inline(reference: str) -> bool:
    """Whether a reference holds the picture itself, as a data URL or as bare base64, and is no address."""
    return reference[:5].lower() == "data:" or BARE_BASE64.match(reference) is not None


def read_inline(reference: str, limits: RequestLimits) -> bytes:
    """Decode a picture in a base64 data URL, or in base64 alone; lines may be broken. Raises InvalidRequest."""
    start = _start_of_base64(reference)
    num_bytes = (len(reference) - start - sum(map(reference.count, LINE_BREAKS))) // 4 * 3
    if num_bytes > limits.max_image_bytes + 2:  # two of them may be padding
        raise InvalidRequest.of("image", f"has {num_bytes} bytes; the limit is {limits.max_image_bytes}")
    decoded, rest, is_padded = io.BytesIO(), "", False
    try:
        for place in range(start, len(reference), BASE64_CHUNK_CHARS):  # in pieces, for a slice of all is a copy of all
            rest += _without_breaks(reference[place : place + BASE64_CHUNK_CHARS])
            whole = len(rest) // 4 * 4
            piece, rest = rest[:whole], rest[whole:]
            if piece and is_padded:
                raise ValueError("padding before the end")
            decoded.write(binascii.a2b_base64(piece, strict_mode=True))
            is_padded = piece.endswith("=")
        binascii.a2b_base64(rest, strict_mode=True)  # which says what is wrong with what is left over
    except ValueError as error:  # binascii.Error is one, and so is what is not ASCII
        hint = "; a + in a form has to be sent as %2B" if " " in reference[start:] else ""
        raise InvalidRequest.of("image", f"is not base64: {error}{hint}") from None
    return decoded.getvalue()


def _without_breaks(text: str) -> str:
    for each in LINE_BREAKS:
        text = text.replace(each, "")
    return text


def _start_of_base64(reference: str) -> int:
    """Index at which base64 begins. Raises InvalidRequest for a data URL of another kind."""
    if reference[:5].lower() != "data:":
        return 0
    head = DATA_URL.match(reference[:DATA_URL_HEAD_CHARS])
    if head is None:
        raise InvalidRequest.of("image", "is not a data URL such as data:image/png;base64,iVBORw0...")
    media_type = head[1].lower()
    if not media_type.startswith("image/") and media_type not in MEDIA_TYPES:
        raise InvalidRequest.of("image", f"is of type {media_type}; send a picture")
    return head.end()


def check_picture(encoded: bytes, width: int, height: int, limits: RequestLimits) -> None:
    """Raise InvalidRequest unless the picture can be decoded whole, and fitted to a size in pixels.

    Takes at most about MAX_DECODED_BYTES beside the picture itself: what needs more is refused by its header, and what
    has a header that cannot be trusted is decoded apart. Only a corner is fitted, for that depends on the kind of
    picture and not on its pixels.
    """
    picture = open_picture(encoded, limits)
    if picture.format in apart.FORMATS:
        picture.close()
        return apart.check_apart(encoded, limits)
    try:
        num_bytes = _decoded_bytes(picture, width, height)
        if num_bytes > MAX_DECODED_BYTES:
            raise InvalidRequest.of(
                "image",
                f"needs {num_bytes} bytes while it is decoded; the limit is {MAX_DECODED_BYTES}; send a smaller one",
            )
        picture.load()
        corner = picture.crop((0, 0, min(picture.width, CORNER_PIXELS), min(picture.height, CORNER_PIXELS)))
    except InvalidRequest:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for bytes that are damaged
        raise InvalidRequest.of("image", f"is damaged and cannot be decoded: {error}") from None
    finally:
        picture.close()
    _fit(corner, width, height)


def _decoded_bytes(picture: Image.Image, width: int, height: int) -> int:
    """Bytes that decoding takes, by the header.

    A JPEG will be decoded at a half, a quarter or an eighth if that is enough.
    """
    num_bytes = 0
    if picture.info.get("progressive"):
        num_bytes = picture.width * picture.height * PROGRESSIVE_PIXEL_BYTES
    picture.draft("RGB", (width, height))
    return num_bytes + picture.width * picture.height * PIXEL_BYTES.get(picture.format or "", 4)


def _fit(corner: Image.Image, width: int, height: int) -> None:
    try:
        fit_picture(corner, min(width, CORNER_PIXELS), min(height, CORNER_PIXELS))
    except InvalidRequest:
        raise
    except Exception as error:  # as above
        raise InvalidRequest.of("image", f"is of a kind that cannot be used: {error}") from None
