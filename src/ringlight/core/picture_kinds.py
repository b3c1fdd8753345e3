"""Kinds of files by their first bytes, whatever their names say: so that an error names what cannot be read."""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES = 1024
HEIF_BRANDS = {"heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1"}
AVIF_BRANDS = {"avif", "avis"}
RENDER = "render it to PNG"
CONVERT = "send it as JPEG or PNG"
TAKE_A_FRAME = "take one frame of it, as JPEG or PNG"


class PictureKind(NamedTuple):
    """Kind of file that was sent, and the remedy."""

    name: str
    remedy: str


HEIC = PictureKind("a HEIC picture", f"{CONVERT}; where the model runs, pip install 'ringlight[heic]' adds HEIC")
AVIF = PictureKind("an AVIF picture", f"{CONVERT}; Pillow reads AVIF from 11.3 on")
FILM = PictureKind("an MP4 or QuickTime video", TAKE_A_FRAME)

MAGIC: tuple[tuple[bytes, PictureKind], ...] = (
    (b"\0\0\0\x0cjP  \r\n\x87\n", PictureKind("a JPEG 2000 picture", CONVERT)),
    (b"\xff\x4f\xff\x51", PictureKind("a JPEG 2000 picture", CONVERT)),
    (b"\0\0\0\x0cJXL \r\n\x87\n", PictureKind("a JPEG XL picture", CONVERT)),
    (b"\xff\x0a", PictureKind("a JPEG XL picture", CONVERT)),
    (b"8BPS", PictureKind("a Photoshop document", CONVERT)),
    (b"\x76\x2f\x31\x01", PictureKind("an OpenEXR picture", CONVERT)),
    (b"#?RADIANCE", PictureKind("a Radiance HDR picture", CONVERT)),
    (b"%PDF-", PictureKind("a PDF document", RENDER)),
    (b"\x1a\x45\xdf\xa3", PictureKind("a WebM or Matroska video", TAKE_A_FRAME)),
    (b"\x1f\x8b", PictureKind("a gzip archive", "unpack it")),
    (b"PK\x03\x04", PictureKind("a zip archive", "unpack it")),
    (b"http://", PictureKind("the text of an address", "send the picture that lies there")),
    (b"https://", PictureKind("the text of an address", "send the picture that lies there")),
    (b"data:", PictureKind("the text of a data URL", "send the bytes that it holds")),
    (
        b"version https://git-lfs",
        PictureKind("a pointer of Git LFS", "fetch the file that it stands for: git lfs pull"),
    ),
)


def kind_of(encoded: bytes) -> PictureKind | None:
    """The kind of a file that is none of the usual pictures; None where nothing is known of it."""
    head = encoded[:HEAD_BYTES]
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return PictureKind("an AVI video", TAKE_A_FRAME)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return PictureKind("an SVG drawing", RENDER)
    if text.startswith((b"<!doctype html", b"<html")):
        return PictureKind("a web page", "send the picture that it shows")
    return None


def _of_brands(head: bytes) -> PictureKind:
    """Kind of an ISO file by the brands in its first box: the main one, and the compatible ones."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    places = (8, *range(16, end, 4))
    brands = {head[place : place + 4].decode("latin-1") for place in places}
    if brands & AVIF_BRANDS:
        return AVIF
    return HEIC if brands & HEIF_BRANDS else FILM
