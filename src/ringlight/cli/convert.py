"""`ringlight convert`: a checkpoint, however it comes, as a folder in Diffusers layout."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringlight.cli.demo_checkpoint import what_failed
from ringlight.core.checkpoint import Checkpoint, find_checkpoint
from ringlight.core.config import worker_environment
from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.core.files import into_place
from ringlight.core.installation import check_installation
from ringlight.core.plain import plain
from ringlight.core.report import GIB
from ringlight.core.stored_network import read_network, require_whole
from ringlight.core.weights import network_files, networks_of
from ringlight.families.table import checkpoint_at, family_of, model_of, recognised


class Numbers(StrEnum):
    """Dtype of the written weights."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


SIZES = {"F64": 8, "F32": 4, Numbers.float32: 4, Numbers.bfloat16: 2, Numbers.float16: 2, Numbers.auto: 2}  # bytes


def convert(
    source: Annotated[
        str, typer.Argument(help="As --model-path: a folder, a transformer's file, a YAML card.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not be there.", show_default=False)],
    dtype: Annotated[
        Numbers,
        typer.Option(help="Of transformer and text encoder. auto: as stored, what is quantised as bfloat16."),
    ] = Numbers.auto,
    model_family: Annotated[
        str, typer.Option(help="Of which family single files are, where they cannot tell it.", metavar="NAME")
    ] = "",
) -> None:
    """Write a checkpoint as a folder in Diffusers layout, one tensor after another; nothing is overwritten.

    Exit codes: 0, 2 usage, 3 invalid checkpoint, setting or installation, 4 failure of the writing process.
    """
    checkpoint = checkpoint_at(find_checkpoint(source), model_family)
    spec = model_of(checkpoint, model_family)
    require_whole(checkpoint, with_weights=True)
    files = family_of(spec).single_files
    if files is None:
        raise InvalidCheckpoint(f"{source}: checkpoints of {spec.family} are in Diffusers layout already")
    for name, told in recognised(checkpoint).items():
        print(f"{name}: {told}", file=sys.stderr)
    check_installation()
    part = make_room(folder, most_bytes(checkpoint, dtype))
    try:
        command = [sys.executable, "-m", files.convert, str(checkpoint.place), str(part), dtype.value, model_family]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=worker_environment(), check=False)
        if done.returncode == 3:
            raise InvalidCheckpoint(done.stderr.strip().splitlines()[-1])
        if done.returncode:
            raise what_failed(folder, done.stderr, done.returncode)
        into_place([(part, folder)])
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(folder)


def most_bytes(checkpoint: Checkpoint, dtype: Numbers) -> int:
    """Upper bound in bytes on what will be written."""
    stored = [
        tensor
        for name in networks_of(checkpoint)
        for tensor in read_network(network_files(checkpoint, name)).tensors.values()
    ]
    least = SIZES[dtype]
    return sum(math.prod(tensor.shape) * max(least, SIZES.get(tensor.dtype, 0)) for tensor in stored)


def make_room(folder: Path, num_bytes: int) -> Path:
    """Make a new hidden folder beside one that is to be written.

    Raises InvalidSetting if that exists or cannot be made, or if its disk has too little room.
    """
    if folder.exists() or folder.is_symlink():
        raise InvalidSetting(f"{folder}: is there already and would be overwritten; name another folder")
    part = folder.with_name(f".{folder.name}.part")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise InvalidSetting(f"{part}: left over from, or used by, another conversion; remove it") from None
    except OSError as error:
        raise InvalidSetting(f"{folder}: cannot be made a folder: {error.strerror}") from None
    if (free := shutil.disk_usage(part).free) < num_bytes:
        part.rmdir()
        raise InvalidSetting(
            f"{folder}: its disk has {plain(free / GIB, 3)} GiB left, and needs {plain(num_bytes / GIB, 3)} for it"
        )
    return part
