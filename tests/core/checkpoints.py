"""Checkpoint folders without weights, for what is read from JSON alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def copy_json(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint's configuration in `folder`: all JSON, no weight."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Change keys of one of a checkpoint's JSON files; `...` takes a key away."""
    path = folder / file
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
