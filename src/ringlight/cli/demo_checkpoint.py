"""`ringlight demo-checkpoint`: a small checkpoint with random weights, in the exact layout of the real one."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringlight.core.config import DEMO_NAME, worker_environment
from ringlight.core.errors import InvalidSetting, WorkerError
from ringlight.core.spec import read_json


class Size(StrEnum):
    tiny = "tiny"
    small = "small"


def demo_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made if it is not there.", show_default=False)],
    size: Annotated[
        Size,
        typer.Option(help="tiny: a video in seconds. small: seconds a forward at 1,280 tokens and more."),
    ] = Size.tiny,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same bytes.")] = 0,
    shard_megabytes: Annotated[
        int,
        typer.Option(min=0, help="Split weights into shards of at most this size, with an index; 0: one file."),
    ] = 0,
) -> None:
    """Write a checkpoint that diffusers' WanPipeline can load, with random weights: a texture, not a film."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"{folder}: cannot be made a folder: {error.strerror}") from None
    refuse_other_checkpoint(folder)
    module = "ringlight.models.wan.demo"
    arguments = [str(folder), size.value, str(seed), str(shard_megabytes)]
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=worker_environment(), check=False)
    if done.returncode:
        raise WorkerError(f"writing {folder} failed (exit status {done.returncode})")
    print(folder)


def refuse_other_checkpoint(folder: Path) -> None:
    """Raise InvalidSetting where a checkpoint stands that is not a demo's: its weights would be lost."""
    index = folder / "model_index.json"
    if index.exists() and not str(read_json(index).get("_name_or_path")).startswith(DEMO_NAME):
        raise InvalidSetting(f"{folder}: holds another checkpoint, which would be overwritten; name another folder")
