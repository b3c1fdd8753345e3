"""Checkpoint: the parts of a model and where they lie, and the place that the operator named."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ringlight.core import hub
from ringlight.core.config import read_hub_cache
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.presence import read_json

INDEX = "model_index.json"
TOKENIZER = "tokenizer"
TOKENIZER_FILE = "tokenizer.json"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint, as if it were a folder in Diffusers layout.

    `place` is what was named. Of one in Diffusers layout every part is a folder in it. Of another `parts` say where
    each is, a file or a folder, and `documents` have the JSON that no file has, by the name that it has in that layout.
    """

    place: Path
    parts: Mapping[str, Path] = {}
    documents: Mapping[str, Mapping[str, Any]] = {}

    def part(self, name: str) -> Path:
        """Path of a part, such as `vae`."""
        return self.parts.get(name, self.place / name)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object by its name in Diffusers layout, such as `vae/config.json`. Raises InvalidCheckpoint."""
        stated = self.documents.get(name)
        return read_json(self.path(name)) if stated is None else dict(stated)

    def path(self, name: str) -> Path:
        """Path of a file, which may not exist."""
        part, _, rest = name.partition("/")
        return self.part(part) / rest if rest else self.place / name

    @property
    def folder(self) -> Path:
        """Folder of files that belong to the checkpoint, such as its ringlight.json."""
        return self.place if os.path.isdir(self.place) else self.place.parent

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        part = self.part(TOKENIZER)
        return part if part.suffix == ".json" else part / TOKENIZER_FILE


def find_checkpoint(model_path: str) -> Path:
    """Path of a checkpoint: a path, a repository's folder in the hub's cache, or ORG/NAME[@REVISION] in it.

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
        f"{model_path}: no such folder{hint}; --model-path names a checkpoint: its folder, a file of it, or ORG/NAME "
        "as it lies in the hub's cache"
    )


def _nearest(path: Path) -> str:
    """Hint at a neighbouring path of nearly the same name; empty if there is none."""
    try:
        there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, there, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
