"""The files that hold a checkpoint's weights: which they are, whether they are whole, and what their headers say.

All without torch, so that what keeps a model from loading is told before a worker starts. A safetensors file is the
length of its header (8 bytes, little endian), the header as JSON (name -> dtype, shape, place), and the values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ringlight.core.checkpoint import INDEX, Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.foreign import PICKLE_SUFFIXES, instead_of
from ringlight.core.presence import listed, read_json, require_file, require_files

TRANSFORMERS = ("transformer", "transformer_2")  # folders of the only one, or of the experts for high noise and for low
STEMS = {  # of the names of the files in each network's folder
    "transformer": "diffusion_pytorch_model",
    "transformer_2": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "image_encoder": "model",
}
OPTIONAL = ("transformer_2", "image_encoder")  # networks that are only there where the index names a class for them
REQUIRED = tuple(name for name in STEMS if name not in OPTIONAL)
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it


class StoredTensor(msgspec.Struct, frozen=True):
    """Entry of a tensor in a header. `data_offsets` are its first byte and its end, counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class FileHeader(NamedTuple):
    """Contents of a safetensors file but its values: tensors by name, metadata, and bytes before the first."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    num_bytes: int


def networks_of(checkpoint: Checkpoint) -> list[str]:
    """The networks that a checkpoint has, by their folders. Raises InvalidCheckpoint."""
    index = checkpoint.json(INDEX)
    return [name for name in STEMS if name in REQUIRED or is_named(index, name)]


def is_named(index: Mapping[str, Any], name: str) -> bool:
    """Whether a `model_index.json` names a class for a part of the checkpoint, which then has a folder."""
    said = index.get(name)
    return isinstance(said, list) and len(said) == 2 and isinstance(said[1], str)


def require_present(checkpoint: Checkpoint, with_weights: bool) -> None:
    """Raise InvalidCheckpoint for files of tokenizer and weights that are not there, all of them at once."""
    paths = [checkpoint.tokenizer, *(checkpoint_weights(checkpoint) if with_weights else [])]
    inside = [path for path in paths if path.is_relative_to(checkpoint.place)]
    require_files(checkpoint.place, [str(path.relative_to(checkpoint.place)) for path in inside])
    for path in paths:
        if path not in inside:
            require_file(path)


def checkpoint_weights(checkpoint: Checkpoint) -> list[Path]:
    """All files of weights of a checkpoint that loading reads, in order. Raises InvalidCheckpoint."""
    return sorted(path for name in networks_of(checkpoint) for path in network_files(checkpoint, name))


def network_files(checkpoint: Checkpoint, name: str) -> list[Path]:
    """The files of one of its networks. Raises InvalidCheckpoint."""
    return weight_files(checkpoint.part(name), STEMS[name])


def weight_files(place: Path, stem: str) -> list[Path]:
    """Find the files of one network: a named file, a folder's single file, or the shards of an index, else a variant's.

    Where there is nothing at all it is the single one that should be there. Raises InvalidCheckpoint.
    """
    if os.path.isfile(place):
        return _named_by(place)
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    for name in (index, single):
        if os.path.lexists(place / name):
            return _named_by(place / name)
    variants = _variants(place, stem)
    if len(variants) > 1:
        first = next(iter(variants.values()))
        raise InvalidCheckpoint(
            f"{place}: holds the variants {', '.join(variants)} and no {single}; choose one by a link beside them, "
            f"such as `ln -s {first} {index if first.endswith('.json') else single}`"
        )
    for name in variants.values():
        return _named_by(place / name)
    _refuse_other_weights(place)
    return [place / single]


def read_header(path: Path) -> FileHeader:
    """Read the header of a safetensors file. Raises InvalidCheckpoint, also if the file's length does not match."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = file.seek(0, 2)
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise damaged(path, "it does not begin with a header")
            file.seek(8)
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        said = header.pop("__metadata__", None)
        metadata = {} if said is None else msgspec.json.decode(said, type=dict[str, str])
        tensors = {name: msgspec.json.decode(raw, type=StoredTensor) for name, raw in header.items()}
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    told = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size != told:
        raise damaged(path, f"{size} bytes, where its header tells of {told}")
    return FileHeader(tensors, metadata, 8 + length)


def contents(path: Path, header: FileHeader, names: Collection[str]) -> dict[str, bytes]:
    """The values of a few small tensors of a file. Raises InvalidCheckpoint."""
    found = {}
    try:
        with path.open("rb") as file:
            for name in names:
                start, end = header.tensors[name].data_offsets
                file.seek(header.num_bytes + start)
                found[name] = file.read(end - start)
    except OSError as error:
        raise damaged(path, str(error)) from None
    return found


def damaged(path: Path, detail: str) -> InvalidCheckpoint:
    """The error for a safetensors file that cannot be read."""
    return InvalidCheckpoint(
        f"{path}: not a readable safetensors file ({' '.join(detail.split())}); it is damaged or cut short: download "
        "it again"
    )


def _named_by(path: Path) -> list[Path]:
    """The file itself, or the shards of an index."""
    if path.suffix != ".json":
        return [path]
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InvalidCheckpoint(f"{path}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InvalidCheckpoint(f"{path}: {name!r} is not the name of a safetensors file in its folder")
    return [path.parent / name for name in names]


def _variants(folder: Path, stem: str) -> dict[str, str]:
    """fp16 and the like -> the file or index that holds a network in that kind of number."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found: dict[str, str] = {}
    for kind in (r"\.(\w+)\.safetensors", r"\.safetensors\.index\.(\w+)\.json"):
        matches = [match for name in names if (match := re.fullmatch(re.escape(stem) + kind, name, re.ASCII))]
        found |= {match[1]: match[0] for match in matches}
    return found


def _refuse_other_weights(folder: Path) -> None:
    """Raise InvalidCheckpoint where the weights are there in a form that is not read."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if pickles := [name for name in names if name.endswith(PICKLE_SUFFIXES)]:
        raise InvalidCheckpoint(
            f"{folder}: holds pickled weights ({listed(pickles)}), which can run code; {instead_of(pickles)}"
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        raise InvalidCheckpoint(
            f"{folder}: holds GGUF files ({listed(ggufs)}); name the one that is meant in a YAML card "
            "(docs/checkpoints.md)"
        )
