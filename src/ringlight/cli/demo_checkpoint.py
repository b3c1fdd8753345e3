"""`ringlight demo-checkpoint`: a small checkpoint in the exact layout of the real one, trained or of random weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringlight.core.config import DEFAULTS_FILE, DEMO_NAME, worker_environment
from ringlight.core.errors import InvalidSetting, RinglightError, WorkerError
from ringlight.core.installation import check_installation
from ringlight.core.presence import read_json
from ringlight.families.family import Family
from ringlight.families.table import FAMILIES, family_named


class Size(StrEnum):
    """Size of a demo checkpoint; film is the trained one."""

    film = "film"
    tiny = "tiny"
    small = "small"


def demo_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made if it is not there.", show_default=False)],
    size: Annotated[
        Size,
        typer.Option(
            help="film: trained, one recognises what it makes. Of random weights, whose videos are a texture: tiny, a "
            "video in seconds; small, seconds a forward at 1,280 tokens and more."
        ),
    ] = Size.film,
    family: Annotated[
        str, typer.Option(help=f"Of which models: {', '.join(family.name for family in FAMILIES)}.")
    ] = FAMILIES[0].name,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Of random weights (0): same seed, same bytes.", show_default=False),
    ] = None,
    shard_megabytes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Split random weights into shards of at most this size, with an index; 0: one file (0).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a checkpoint that diffusers' WanPipeline can load too."""
    found = family_named(family)
    if size is Size.film:
        require_film(found, {"--seed": seed, "--shard-megabytes": shard_megabytes})
    else:
        check_installation()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"{folder}: cannot be made a folder: {error.strerror}") from None
    refuse_other_checkpoint(folder)
    if size is Size.film:
        copy_film(found, folder)
    else:
        write_random(found, folder, [size.value, str(seed or 0), str(shard_megabytes or 0)])
    print(folder)


def require_film(family: Family, asked: dict[str, int | None]) -> None:
    """Raise InvalidSetting where a family has no trained checkpoint, or what is `asked` is of random weights alone."""
    if family.trained_demo is None:
        having = ", ".join(each.name for each in FAMILIES if each.trained_demo is not None)
        raise InvalidSetting(f"no film is trained for {family.name}, only for {having}; use --size tiny")
    if given := [flag for flag, value in asked.items() if value is not None]:
        raise InvalidSetting(f"{' and '.join(given)} are for random weights; add --size tiny or --size small")


def copy_film(family: Family, folder: Path) -> None:
    """Write the trained checkpoint that comes with the package, and nothing of what was there of another one."""
    assert family.trained_demo is not None, "there is one"
    try:
        (folder / DEFAULTS_FILE).unlink(missing_ok=True)
        for part in sorted(family.trained_demo.iterdir(), key=lambda part: part.name == DEFAULTS_FILE):  # that one last
            if part.is_dir():
                shutil.rmtree(folder / part.name, ignore_errors=True)
                shutil.copytree(part, folder / part.name, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(part, folder / part.name)
    except OSError as error:
        raise WorkerError(f"writing {folder} failed: {error}") from None


def write_random(family: Family, folder: Path, arguments: list[str]) -> None:
    """Write random weights, in a process that has torch."""
    command = [sys.executable, "-m", family.demo, str(folder), *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=worker_environment(), check=False)
    if done.returncode:
        raise what_failed(folder, done.stderr, done.returncode)


def what_failed(folder: Path, said: str, status: int) -> RinglightError:
    """Error of a process that wrote to stderr and ended, in one line. A broken package is the operator's to mend."""
    last = (said.strip().splitlines() or [f"exit status {status}"])[-1]
    if last.startswith(("ModuleNotFoundError:", "ImportError:")):
        return InvalidSetting(f"writing a checkpoint needs a package that is broken: {last}; see `ringlight doctor`")
    return WorkerError(f"writing {folder} failed: {last}")


def refuse_other_checkpoint(folder: Path) -> None:
    """Raise InvalidSetting where a checkpoint stands that is not a demo's: its weights would be lost."""
    index = folder / "model_index.json"
    if index.exists() and not str(read_json(index).get("_name_or_path")).startswith(DEMO_NAME):
        raise InvalidSetting(f"{folder}: holds another checkpoint, which would be overwritten; name another folder")
