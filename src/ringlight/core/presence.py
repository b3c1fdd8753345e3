"""Whether the files of a checkpoint are there. One rule for weights, JSON and tokenizer: what was linked is followed.

Weights are safetensors and run no code, so a link may lead wherever the operator wants: to a store of blobs, another
disk, one's own fine-tune. A link that leads nowhere is called that, and not a missing file.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.hub import snapshot_of

POINTER = b"version https://git-lfs"  # how the text begins that git keeps in the place of a large file
MAX_LISTED = 8
MAX_NAME = 120


def require_files(folder: Path, names: Iterable[str]) -> None:
    """Raise InvalidCheckpoint that names every one of these files of a folder that cannot be read, and the remedy."""
    problems = [f"{_plain(name)}: {problem}" for name in names if (problem := trouble_with(folder / name))]
    if problems:
        said = "; ".join(problems[:MAX_LISTED]) + _more(problems)
        raise InvalidCheckpoint(f"{folder}/{said}; {remedy(folder, said)}")


def require_file(path: Path) -> None:
    """Raise InvalidCheckpoint unless a file can be read there."""
    require_files(path.parent, [path.name])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint. Raises InvalidCheckpoint naming the file and the place."""
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, too long a number
        raise InvalidCheckpoint(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def trouble_with(path: Path) -> str | None:
    """Reason why a file cannot be read, in a few words; None if it can."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return "a folder in the place of a file"
        if not stat.S_ISREG(mode):
            return "a device or a pipe in the place of a file"
        with path.open("rb") as file:
            is_pointer = file.read(len(POINTER)) == POINTER
        return "a git-lfs pointer in the place of the file" if is_pointer else None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return broken_link(path) or ("no such file" if os.path.isdir(path.parent) else "no such folder")
        return f"not readable: {error.strerror}"


def broken_link(path: Path) -> str | None:
    """Fault of a link on the way to a missing path; None if no link is to blame."""
    for part in (*reversed(path.parents), path):
        try:
            os.stat(part)
        except OSError as error:
            if not os.path.islink(part):
                return None
            if error.errno == errno.ELOOP:
                return f"{part} is a link that leads back to itself"
            return f"{part} is a link to {os.path.realpath(part)}, which is not there"
    return None


def remedy(folder: Path, trouble: str) -> str:
    """Remedy for files of a folder that cannot be read."""
    if "git-lfs pointer" in trouble:
        return "install git-lfs and run `git lfs pull` in the clone: it fetches what pointers stand for"
    if (snapshot := snapshot_of(folder)) is not None:
        return f"the download is not whole; `{snapshot.command}` gets what is missing"
    if "is a link" in trouble:
        return "mend the link, or mount what it leads to"
    if "not readable" in trouble:
        return "the user that this process runs as must be able to read it"
    return "a checkpoint in Diffusers layout has it (download the folder whole)"


def listed(names: list[str]) -> str:
    """Join names of a checkpoint, without control characters for a terminal, and not too many."""
    return ", ".join(map(_plain, names[:MAX_LISTED])) + _more(names)


def _plain(name: str) -> str:
    return ascii(name[:MAX_NAME])[1:-1]


def _more(items: list[str]) -> str:
    return f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
