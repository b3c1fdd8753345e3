"""Flags for a video: its size, and its first picture."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from ringlight.core.errors import InvalidRequest

ADDRESS = re.compile(r"(https?|ftp|s3|data):", re.IGNORECASE)


def parse_size(size: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """Width and height from --size or from their own flags, which may not contradict each other."""
    if size is None:
        return width, height
    if width is not None or height is not None:
        raise typer.BadParameter("give --size, or --width and --height, not both", param_hint="--size")
    match = re.fullmatch(r"(\d+)[xX×*](\d+)", size.strip())
    if match is None:
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT, such as 1280x704", param_hint="--size")
    return int(match[1]), int(match[2])


def read_image(path: Path | None, field: str = "image") -> bytes | None:
    """The bytes of the picture. Raises InvalidRequest when the file cannot be read."""
    if path is None:
        return None
    if ADDRESS.match(str(path)):
        raise InvalidRequest.of(field, "is an address, and is not fetched; fetch it first (curl -O) and name the file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest.of(field, f"{path}: {error.strerror or error}") from None
