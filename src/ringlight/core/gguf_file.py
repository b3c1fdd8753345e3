"""GGUF files by their headers, through the package of that name, which is an extra."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ringlight.core.errors import InvalidCheckpoint, InvalidInstallation
from ringlight.core.presence import listed

SUFFIX = ".gguf"
FLOATS = ("F64", "F32", "F16", "BF16")
ARCHITECTURE, SHAPE = "general.architecture", "comfy.gguf.orig_shape."


class GgufTensor(NamedTuple):
    """A tensor: its kind of numbers by GGUF's name, its shape, and its values as the file has them (numpy)."""

    dtype: str
    shape: tuple[int, ...]
    data: Any


def read_gguf(path: Path) -> dict[str, GgufTensor]:
    """Read all tensors of a file, memory-mapped. Raises InvalidCheckpoint, InvalidInstallation without the package."""
    if find_spec("gguf") is None:
        raise InvalidInstallation(f"{path}: GGUF is read by the package gguf, an extra: pip install 'ringlight[gguf]'")
    import gguf  # here, because it is an extra

    try:
        reader = gguf.GGUFReader(path)
        said = reader.fields.get(ARCHITECTURE)
        architecture = None if said is None else said.contents()
        shapes = {
            name.removeprefix(SHAPE): tuple(int(size) for size in field.contents())
            for name, field in reader.fields.items()
            if name.startswith(SHAPE)
        }
        tensors = reader.tensors
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InvalidCheckpoint(
            f"{path}: not a readable GGUF file ({' '.join(str(error).split())}); it is damaged or cut short: download "
            "it again"
        ) from None
    if architecture != "wan":
        raise InvalidCheckpoint(f"{path}: a GGUF file of {listed([str(architecture)])}, not of wan")
    found = {}
    for tensor in tensors:
        shape = shapes.get(tensor.name, tuple(int(size) for size in reversed(tensor.shape)))
        kind = tensor.tensor_type
        if kind.name not in FLOATS and kind not in gguf.quants._type_traits:
            raise InvalidCheckpoint(f"{path}: {listed([tensor.name])} is {kind.name}, which the package does not widen")
        if math.prod(shape) != tensor.n_elements:
            raise InvalidCheckpoint(f"{path}: {listed([tensor.name])} has {tensor.n_elements} numbers, not {shape}")
        found[tensor.name] = GgufTensor(kind.name, shape, tensor.data)
    return found
