"""Checkpoint folders to change: without weights, as links to another, and as the hub's cache has them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


def copy_json(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint's configuration in `folder`: all JSON, no weight."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def link_all(checkpoint: Path, folder: Path) -> Path:
    """A copy whose files are links, as link farms have it; one that is to be changed must be taken away first."""
    shutil.copytree(checkpoint, folder, copy_function=os.symlink)
    return folder


def cached(checkpoint: Path, cache: Path, repository: str, commit: str) -> Path:
    """The snapshot of a repository in a hub's cache: each file a relative link to a blob."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for path in filter(Path.is_file, sorted(checkpoint.rglob("*"))):
        place = snapshot / path.relative_to(checkpoint)
        blob = root / "blobs" / f"{commit[:4]}-{'-'.join(path.relative_to(checkpoint).parts)}"
        shutil.copyfile(path, blob)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


def name_revision(snapshot: Path, revision: str) -> None:
    """Let a branch or a tag stand for a snapshot."""
    ref = snapshot.parent.parent / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(snapshot.name)


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Change keys of one of a checkpoint's JSON files; `...` takes a key away."""
    path = folder / file
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
