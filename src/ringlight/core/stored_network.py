"""StoredNetwork: what the files of one network hold, as their headers tell, whoever wrote them.

Weights in eight bits come in several formats, all of the same arithmetic (EightBit): `X.weight` in a byte a number and,
but where it is a plain cast, a scale beside it, for the tensor or for each row. It is called `X.weight_scale`, or
`X.scale_weight` by ComfyUI of old, whose files hold a tensor `scaled_fp8`; of late they say the format of each layer in
JSON, as a tensor `X.comfy_quant` or beside all tensors. Scales of what is computed with are not needed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.eight_bit import KINDS, SCALE, EightBit, scale_of
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.foreign import name_of_weights
from ringlight.core.gguf_file import SUFFIX, read_gguf
from ringlight.core.plain import plain
from ringlight.core.presence import listed
from ringlight.core.weights import (
    FileHeader,
    contents,
    damaged,
    network_files,
    networks_of,
    read_header,
    require_present,
)

Shape = tuple[int, ...]

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # of ComfyUI's, in front of the names of a transformer
MARK = "scaled_fp8"
FORMAT = "comfy_quant"
FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8"}
FORMATS_KEY = "_quantization_metadata"
UNUSED = (".scale_input", ".input_scale", "._amax", "_quantizer._amax")  # for products in eight bits
COUNTED = ".position_ids"  # 0, 1, 2, ..., which transformers once wrote of image encoders
TOKENIZER_MODEL = "spiece_model"  # bytes of a tokenizer, in ComfyUI's text encoders


class StoredWeight(msgspec.Struct, frozen=True):
    """A tensor of a file, by its name there; with its scale where it has one."""

    path: Path
    name: str
    dtype: str
    shape: Shape
    scale: StoredWeight | None = None

    @property
    def eight_bit(self) -> EightBit | None:
        """Format in which it can be held in memory, if it is a matrix of eight bits."""
        return KINDS.get(self.dtype) if len(self.shape) == 2 else None

    @property
    def shape_of_scales(self) -> Shape:
        """Shape of the scales of a matrix in eight bits: (rows, scales of a row)."""
        rows, columns = self.shape
        return rows, KINDS[self.dtype].num_scales(columns)


class StoredNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """All tensors of a network. `told`: what is particular about them, in words."""

    tensors: Mapping[str, StoredWeight]
    told: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors, and of the scales of matrices in eight bits."""
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        eight = [name for name, each in self.tensors.items() if each.eight_bit and name.endswith(".weight")]
        rows = {scale_of(name): self.tensors[name].shape_of_scales for name in eight}
        return shapes | rows

    def renamed(self, rename: Callable[[str], str], told: str) -> StoredNetwork:
        """The same tensors by other names. Raises InvalidCheckpoint where two would have the same."""
        tensors: dict[str, StoredWeight] = {}
        for name, tensor in self.tensors.items():
            new = rename(name)
            if new in tensors:
                both = listed([tensors[new].name, tensor.name])
                raise InvalidCheckpoint(f"{tensor.path}: {both} are the same tensor under two names")
            tensors[new] = tensor
        return StoredNetwork(tensors=tensors, told=(*self.told, told))

    def held(self, names: Iterable[str]) -> EightBit | None:
        """Common format in eight bits of weights that form one matrix; None if they have none or differ."""
        kinds = {tensor.eight_bit if (tensor := self.tensors.get(name)) else None for name in names}
        return kinds.pop() if len(kinds) == 1 else None


def require_whole(checkpoint: Checkpoint, with_weights: bool) -> None:
    """Raise InvalidCheckpoint for files of tokenizer and weights that are not there, not whole or not understood."""
    require_present(checkpoint, with_weights)
    for name in networks_of(checkpoint) if with_weights else ():
        if found := name_of_weights(read_network(network_files(checkpoint, name)).tensors):
            raise InvalidCheckpoint(f"{checkpoint.part(name)}: {found}")


def read_network(paths: Sequence[Path], aliases: Mapping[str, str] | None = None) -> StoredNetwork:
    """Read the headers of a network's files. Raises InvalidCheckpoint for what is no weight, or cannot be understood.

    `aliases` maps a second name of a tied tensor to its first.
    """
    found: dict[str, StoredWeight] = {}
    formats: dict[str, str] = {}
    for path in paths:
        if path.suffix == SUFFIX:
            found |= {
                _plain_name(name): StoredWeight(path, name, tensor.dtype, tensor.shape)
                for name, tensor in read_gguf(path).items()
            }
            continue
        header = read_header(path)
        formats |= _formats(path, header)
        for stored, tensor in header.tensors.items():
            name = _plain_name(stored)
            if name in found:
                raise InvalidCheckpoint(f"{path}: {listed([stored])} stands in another file already")
            found[name] = StoredWeight(path, stored, tensor.dtype, tensor.shape)
    has_mark = found.pop(MARK, None) is not None
    found.pop(TOKENIZER_MODEL, None)
    kept = {name: each for name, each in found.items() if not name.endswith((*UNUSED, COUNTED, f".{FORMAT}"))}
    tensors = _with_scales(kept)
    _require_understood(tensors, formats)
    named = {(aliases or {}).get(name, name): tensor for name, tensor in tensors.items()}
    return StoredNetwork(tensors=named, told=_told(tensors, has_mark or bool(formats)))


def _plain_name(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _formats(path: Path, header: FileHeader) -> dict[str, str]:
    """Layer -> the format that ComfyUI's JSON says of it. Raises InvalidCheckpoint for one that is not read here."""
    names = [name for name in header.tensors if name.endswith(f".{FORMAT}")]
    said = {name.removesuffix(f".{FORMAT}"): content for name, content in contents(path, header, names).items()}
    found: dict[str, Any] = {_plain_name(layer): _json(path, text) for layer, text in said.items()}
    if FORMATS_KEY in header.metadata:
        layers = _json(path, header.metadata[FORMATS_KEY].encode()).get("layers")
        found |= {_plain_name(layer): each for layer, each in (layers if isinstance(layers, dict) else {}).items()}
    for layer, each in found.items():
        if not isinstance(each, dict) or each.get("format") not in FORMATS or each.get("convrot"):
            told = json.dumps(each)
            raise InvalidCheckpoint(
                f"{path}: {listed([layer])} is quantised in a way that is not read ({listed([told])}); those that are: "
                f"{', '.join(FORMATS)}, without a rotation"
            )
    return {layer: each["format"] for layer, each in found.items()}


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"what it says of its format is no JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _with_scales(found: Mapping[str, StoredWeight]) -> dict[str, StoredWeight]:
    """All weights, each with its scale. Raises InvalidCheckpoint for scales of nothing, and of the wrong shape."""
    scales: dict[str, StoredWeight] = {}
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if kind not in (SCALE, "scale_weight"):
            continue
        weight = f"{layer}.weight"
        if weight not in found or found[weight].dtype not in KINDS:
            raise InvalidCheckpoint(f"{tensor.path}: {listed([tensor.name])} is the scale of no weight in eight bits")
        if weight in scales:
            raise InvalidCheckpoint(f"{tensor.path}: {listed([layer])} has two scales")
        rows = found[weight].shape[0] if found[weight].shape else 1
        if tensor.dtype not in FLOAT_DTYPES or tensor.shape not in ((), (1,), (1, 1), (rows,), (rows, 1)):
            raise InvalidCheckpoint(
                f"{tensor.path}: {listed([tensor.name])} is {tensor.dtype} {list(tensor.shape)}: it must be one number "
                f"for the tensor, or one for each of its {rows} rows"
            )
        scales[weight] = tensor
    are_scales = {id(tensor) for tensor in scales.values()}
    return {
        name: msgspec.structs.replace(tensor, scale=scales[name]) if name in scales else tensor
        for name, tensor in found.items()
        if id(tensor) not in are_scales
    }


def _require_understood(tensors: Mapping[str, StoredWeight], formats: Mapping[str, str]) -> None:
    """Raise InvalidCheckpoint for numbers that are no weights, and for weights in eight bits of unknown size."""
    are_scaled = any(tensor.scale is not None for tensor in tensors.values())
    for name, tensor in tensors.items():
        if tensor.path.suffix == SUFFIX:
            continue
        if tensor.dtype not in (*FLOAT_DTYPES, *KINDS):
            raise InvalidCheckpoint(
                f"{tensor.path}: {listed([tensor.name])} is {listed([tensor.dtype])}, no floating number, nor one of "
                "eight bits with a scale"
            )
        said = formats.get(name.removesuffix(".weight"))
        if said is not None and FORMATS[said] != tensor.dtype and name.endswith(".weight"):
            raise InvalidCheckpoint(f"{tensor.path}: {listed([tensor.name])} is {tensor.dtype}, and said to be {said}")
        is_scaled_weight = are_scaled and name.endswith(".weight")
        if tensor.dtype in KINDS and tensor.scale is None and (is_scaled_weight or tensor.dtype == "I8"):
            raise InvalidCheckpoint(
                f"{tensor.path}: {listed([tensor.name])} is {tensor.dtype} without a scale, which it must have; the "
                "file is not whole, or of a kind that is not read"
            )


def _told(tensors: Mapping[str, StoredWeight], is_comfy: bool) -> tuple[str, ...]:
    """Formats of weights in eight bits or fewer, and which weights are not held so."""
    kinds = []
    ggufs = sorted({tensor.dtype for tensor in tensors.values() if tensor.path.suffix == SUFFIX} - set(FLOAT_DTYPES))
    if ggufs:
        wide = sum(math.prod(tensor.shape) for tensor in tensors.values() if tensor.dtype in set(ggufs) - set(KINDS))
        widened = f", widened when it is loaded: {plain(2 * wide / 2**30, 3)} GiB in 16 bits" if wide else ""
        return (f"GGUF ({', '.join(ggufs)}{widened})",)
    eights = [tensor for tensor in tensors.values() if tensor.dtype in KINDS]
    for dtype in sorted({tensor.dtype for tensor in eights}):
        name = "int8" if dtype == "I8" else "fp8"
        scales = [tensor.scale for tensor in eights if tensor.dtype == dtype and tensor.scale is not None]
        each = "tensor" if all(math.prod(scale.shape) == 1 for scale in scales) else "row"
        if not scales:
            kinds.append(f"{name} without scales ({KINDS[dtype].dtype})")
        else:
            kinds.append(f"{f'{name}_scaled' if is_comfy else name} ({KINDS[dtype].dtype}, a scale for each {each})")
    return tuple(kinds)
