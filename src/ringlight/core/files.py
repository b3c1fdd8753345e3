"""Files that are whole or not there, also when the machine stops in between."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def into_place(moves: Iterable[tuple[Path, Path]]) -> list[str]:
    """Move part files to where they belong, once their content is on the disk. Returns the paths, in order.

    All are written out before the first is moved. Raises OSError.
    """
    moves = list(moves)
    for part, _ in moves:
        write_out(part)
    for part, path in moves:
        os.replace(part, path)
    for folder in {path.parent for _, path in moves}:
        write_out(folder)
    return [str(path) for _, path in moves]


def write_out(path: Path) -> None:
    """Return once a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
