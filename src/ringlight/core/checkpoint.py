"""Where a checkpoint lies that the operator named."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ringlight.core import hub
from ringlight.core.config import read_hub_cache
from ringlight.core.errors import InvalidCheckpoint


def find_checkpoint(model_path: str) -> Path:
    """The folder of a checkpoint: a path, a repository's folder in the hub's cache, or ORG/NAME[@REVISION] in it.

    What is there under this very name comes first. Nothing is downloaded. Raises InvalidCheckpoint where nothing is
    there; what is there may still be no checkpoint.
    """
    path = Path(model_path)
    if os.path.isdir(path):
        return hub.snapshot_within(path) or path
    if os.path.lexists(path):
        return path
    hint = _nearest(path)
    if hub.ASKED.fullmatch(model_path):
        try:
            return hub.find_snapshot(model_path, read_hub_cache())
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(f"{error}{hint}") from None
    raise InvalidCheckpoint(
        f"{model_path}: no such folder{hint}; --model-path names a checkpoint in Diffusers layout: its folder, or "
        "ORG/NAME as it lies in the hub's cache"
    )


def _nearest(path: Path) -> str:
    """The folder that was probably meant, where one beside it is called nearly so."""
    try:
        there = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, there, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
