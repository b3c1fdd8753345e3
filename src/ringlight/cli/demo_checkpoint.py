"""`ringlight demo-checkpoint`: a small checkpoint with random weights, in the exact layout of the real one."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringlight.core.config import DEMO_NAME, worker_environment
from ringlight.core.errors import InvalidSetting, RinglightError, WorkerError
from ringlight.core.presence import read_json
from ringlight.families.table import FAMILIES, family_named


class Size(StrEnum):
    tiny = "tiny"
    small = "small"


def demo_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made if it is not there.", show_default=False)],
    size: Annotated[
        Size,
        typer.Option(help="tiny: a video in seconds. small: seconds a forward at 1,280 tokens and more."),
    ] = Size.tiny,
    family: Annotated[
        str, typer.Option(help=f"Of which models: {', '.join(family.name for family in FAMILIES)}.")
    ] = FAMILIES[0].name,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same bytes.")] = 0,
    shard_megabytes: Annotated[
        int,
        typer.Option(min=0, help="Split weights into shards of at most this size, with an index; 0: one file."),
    ] = 0,
) -> None:
    """Write a checkpoint that diffusers' WanPipeline can load, with random weights: a texture, not a film."""
    module = family_named(family).demo
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"{folder}: cannot be made a folder: {error.strerror}") from None
    refuse_other_checkpoint(folder)
    arguments = [str(folder), size.value, str(seed), str(shard_megabytes)]
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=worker_environment(), check=False)
    if done.returncode:
        raise what_failed(folder, done.stderr, done.returncode)
    print(folder)


def what_failed(folder: Path, said: str, status: int) -> RinglightError:
    """The error of a process that wrote to stderr and ended, in one line: a package that is broken is the operator's to
    mend."""
    last = (said.strip().splitlines() or [f"exit status {status}"])[-1]
    if last.startswith(("ModuleNotFoundError:", "ImportError:")):
        return InvalidSetting(f"writing a checkpoint needs a package that is broken: {last}; see `ringlight doctor`")
    return WorkerError(f"writing {folder} failed: {last}")


def refuse_other_checkpoint(folder: Path) -> None:
    """Raise InvalidSetting where a checkpoint stands that is not a demo's: its weights would be lost."""
    index = folder / "model_index.json"
    if index.exists() and not str(read_json(index).get("_name_or_path")).startswith(DEMO_NAME):
        raise InvalidSetting(f"{folder}: holds another checkpoint, which would be overwritten; name another folder")
