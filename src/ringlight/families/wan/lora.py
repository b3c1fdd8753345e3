"""Matches a LoRA's file with a Wan transformer by its header alone: every tensor finds its place, or it is refused."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.lora import Delta, Difference, LoraFile, lora_file
from ringlight.core.peft_config import KIND, PeftConfig, read_peft_config
from ringlight.core.plain import plain
from ringlight.core.presence import listed
from ringlight.core.stored_network import FLOAT_DTYPES, Shape, StoredNetwork, StoredWeight
from ringlight.core.weights import FileHeader, StoredTensor, contents, read_header
from ringlight.families.model import ModelSpec
from ringlight.families.wan.headers import kind_of
from ringlight.families.wan.lora_names import (
    INTO_WEIGHTS,
    JOINED,
    UNAPPLIED,
    LoraNames,
    LoraTensor,
    Part,
    is_of_lora,
    without_prefixes,
)
from ringlight.families.wan.work.shapes import weight_shapes
from ringlight.families.wan.work.transformer import BLOCK_WEIGHTS, TransformerSpec

DTYPES = (*FLOAT_DTYPES, "F8_E4M3", "F8_E5M2")  # of the matrices; without scales
NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}  # an alpha's, as struct reads them
MAX_ALPHA_BYTES = 8  # of the longest of these: more is no number
ENDS: dict[Part, str] = {"weight": ".weight", "bias": ".bias"}  # of what whole differences are added to
IN_BLOCK = re.compile(rf"(?:^|\.|{'|'.join(JOINED)})blocks[._](\d{{1,6}})[._]")
MAX_KINDS_TOLD = 3

Modules = Mapping[str, dict[Part, str]]  # by our names: the file's name of each part


class Sorted(NamedTuple):
    """Sorted tensors of a file.

    They are those of modules that the network has, those of an image branch that it has not, all others, and those that
    repeat another's content.
    """

    modules: Modules
    stored: Mapping[str, str]  # our name of a module -> the file's
    left_out: list[str]
    unknown: list[str]
    doubled: list[str]


class Scale(NamedTuple):
    """Factor of a product: alpha / rank, or alpha / sqrt(rank), or 1 if no alpha is known."""

    alpha: float | None
    rank: int
    by_root: bool = False

    @property
    def value(self) -> float:
        """The factor."""
        if self.alpha is None or not self.rank:
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.by_root else self.rank)

    def __str__(self) -> str:
        if self.alpha is None:
            return f"rank {self.rank} without alpha"
        return f"alpha {plain(self.alpha)}/" + (f"sqrt({self.rank})" if self.by_root else str(self.rank))


def read_wan_lora(place: Path, spec: ModelSpec) -> LoraFile:
    """Read a LoRA's header, and match it with the transformer.

    Raises InvalidCheckpoint that lists all that does not fit.
    """
    assert isinstance(spec.transformer, TransformerSpec)
    path = lora_file(place)
    header = read_header(path)
    config = read_peft_config(path, header)
    _require_kind(path, header, config)
    matching = Matching(path, header, spec.transformer, config)
    if wrong := [*matching.wrong()]:
        raise InvalidCheckpoint(f"{path}: does not fit {spec.name}: {'; '.join(wrong)}")
    return matching.matched()


class Matching:
    """Comparison of one file with one network."""

    def __init__(self, path: Path, header: FileHeader, spec: TransformerSpec, config: PeftConfig | None) -> None:
        self._path, self._tensors, self._spec = path, header.tensors, spec
        self._shapes = weight_shapes(spec)
        self._sorted = _sort(header.tensors, spec, self._shapes)
        self._pairs = {name: parts for name, parts in self._sorted.modules.items() if {"down", "up"} <= parts.keys()}
        self._alphas = _read_alphas(path, header, self._sorted.modules)
        self._config = config

    def wrong(self) -> Iterator[str]:
        """Yield all that keeps the file from being applied, a sentence for each kind."""
        found = self._sorted
        if other := self._other_network():
            yield other
        for said, names in (
            ("not of this model", found.unknown),
            ("the same tensor under two names", found.doubled),
            ("without the other half of its pair", [*self._halves()]),
            ("in a dtype that is not read", [*self._dtypes()]),
            ("of another shape", [*self._wrong_shapes()]),
            ("a whole difference of a weight that is held in eight bits", [*self._held()]),
            ("an alpha that is no number, or 0", [*self._wrong_alphas()]),
            ("of another rank than its PEFT config says", [*self._wrong_ranks()]),
        ):
            if names:
                yield f"{said}: {listed(names)}"
        if found.left_out and not found.modules:
            yield "all of it is of an image branch, which the model has not"

    def matched(self) -> LoraFile:
        """File that matches, once nothing is wrong."""
        deltas = [
            Delta(
                weight=f"{module}.weight",
                down=parts["down"],
                up=parts["up"],
                rank=(scale := self._scale(module)).rank,
                scale=scale.value,
            )
            for module, parts in self._pairs.items()
        ]
        differences = [Difference(weight=weight, stored=stored) for weight, stored in self._differences()]
        used = [*(name for each in deltas for name in (each.down, each.up)), *(each.stored for each in differences)]
        return LoraFile(
            path=self._path,
            num_bytes=sum(_num_bytes(self._tensors[name]) for name in used),
            deltas=tuple(deltas),
            differences=tuple(differences),
            told=self._told(len(differences)),
            left_out=self._left_out,
        )

    @property
    def _left_out(self) -> str:
        if not (number := len(self._sorted.left_out)):
            return ""
        return f"{_count(number, 'tensor')} of an image branch left out, which this model has not"

    def _scale(self, module: str) -> Scale:
        rank = self._rank(module)
        if module in self._alphas:
            return Scale(self._alphas[module], rank)
        if self._config is None:
            return Scale(None, rank)
        return Scale(self._config.alpha(self._sorted.stored[module]), rank, self._config.use_rslora)

    def _rank(self, module: str) -> int:
        shape = self._tensors[self._pairs[module]["down"]].shape
        return shape[0] if shape else 0

    def _differences(self) -> Iterator[tuple[str, str]]:
        """(weight, name in the file) of tensors that are added as they are."""
        for module, parts in self._sorted.modules.items():
            for part, stored in parts.items():
                if part in ("weight", "bias", "modulation"):
                    yield _weight_of(module, part, self._shapes), stored

    def _halves(self) -> Iterator[str]:
        for module, parts in self._sorted.modules.items():
            if module not in self._pairs:
                yield from (name for part, name in parts.items() if part in ("down", "up", "alpha"))

    def _dtypes(self) -> Iterator[str]:
        for parts in self._sorted.modules.values():
            for part, name in parts.items():
                dtype = self._tensors[name].dtype
                if dtype not in (DTYPES if part != "alpha" else (*NUMBERS, "BF16")):
                    yield f"{name} {dtype}"

    def _wrong_shapes(self) -> Iterator[str]:
        for module, parts in self._pairs.items():
            weight = self._shapes.get(f"{module}.weight", ())
            down, up = (self._tensors[parts[part]].shape for part in ("down", "up"))
            if len(weight) < 2:
                yield f"{parts['down']}: the model has no matrix there"
            elif not (rank := self._rank(module)) or _without_ones(down[1:]) != _without_ones(weight[1:]):
                yield f"{parts['down']} {_by(down)}: {_by((rank or 1, *weight[1:]))} would fit"
            elif not up or (up[0], math.prod(up[1:])) != (weight[0], rank):
                yield f"{parts['up']} {_by(up)}: {weight[0]}x{rank} would fit"
        for weight_name, stored in self._differences():
            shape, fits = self._tensors[stored].shape, self._shapes.get(weight_name)
            if fits is None:
                yield f"{stored}: the model has no {weight_name}"
            elif _without_ones(shape) != _without_ones(fits):
                yield f"{stored} {_by(shape)}: {_by(fits)} would fit"

    def _held(self) -> Iterator[str]:
        block = self._spec.layers.block
        held = [module for name, modules in BLOCK_WEIGHTS.items() if getattr(block, name).held for module in modules]
        weights = {f"blocks.{number}.{module}.weight" for number in range(self._spec.num_layers) for module in held}
        return (stored for weight, stored in self._differences() if weight in weights)

    def _wrong_alphas(self) -> Iterator[str]:
        for module in self._pairs:
            if not math.isfinite(value := self._scale(module).value) or value == 0:
                yield self._sorted.modules[module].get("alpha", self._sorted.stored[module])

    def _wrong_ranks(self) -> Iterator[str]:
        config = self._config or PeftConfig()
        for module, parts in self._pairs.items():
            said, rank = config.rank(self._sorted.stored[module]), self._rank(module)
            if said not in (None, rank):
                yield f"{parts['down']} {rank} and not {said}"

    def _other_network(self) -> str | None:
        """Network that the file was made for, if it is plainly another one."""
        numbers = [int(number) for name in self._tensors for number in IN_BLOCK.findall(name)]
        num_blocks = max(numbers, default=-1) + 1
        first = self._pairs.get("blocks.0.attn1.to_q", {}).get("down")
        dim = self._tensors[first].shape[-1] if first and self._tensors[first].shape else self._spec.inner_dim
        if num_blocks <= self._spec.num_layers and dim == self._spec.inner_dim:
            return None
        return (
            f"it was made for {num_blocks} blocks of {dim} channels, and the model has {self._spec.num_layers} of "
            f"{self._spec.inner_dim}"
        )

    def _told(self, num_differences: int) -> str:
        matrices = {name for name, shape in self._shapes.items() if name.startswith("blocks.") and len(shape) == 2}
        in_blocks = sum(f"{module}.weight" in matrices for module in self._pairs)
        words = [f"{in_blocks} of {len(matrices)} modules"]
        if outside := len(self._pairs) - in_blocks:
            words.append(f"{outside} outside of blocks")
        words += _told_scales([self._scale(module) for module in self._pairs])
        if num_differences:
            words.append(_count(num_differences, "whole difference"))
        return ", ".join([*words, self._left_out] if self._left_out else words)


def _require_kind(path: Path, header: FileHeader, config: PeftConfig | None) -> None:
    """Raise InvalidCheckpoint for a file that is no LoRA, or one of a kind that is not applied, by its name."""
    for what, known_by, remedy in UNAPPLIED:
        if names := [name for name in header.tensors if known_by.search(name)]:
            raise InvalidCheckpoint(f"{path}: is {what} ({listed(names)}), which is not applied; {remedy}")
    if config is not None and (config.use_dora or config.peft_type != KIND):
        kind = "DoRA" if config.peft_type == KIND else listed([config.peft_type])
        raise InvalidCheckpoint(f"{path}: is {kind}, as PEFT says, which is not applied; {INTO_WEIGHTS}")
    if not any(map(is_of_lora, header.tensors)):
        stored = {name: StoredWeight(path, name, each.dtype, each.shape) for name, each in header.tensors.items()}
        kind_of_network = kind_of(StoredNetwork(tensors=stored).renamed(without_prefixes, ""))
        what = f"the weights of a {kind_of_network}" if kind_of_network else f"{len(stored)} tensors of something else"
        raise InvalidCheckpoint(f"{path}: is no LoRA but {what} ({listed([*stored])})")


def _sort(tensors: Iterable[str], spec: TransformerSpec, shapes: Mapping[str, Shape]) -> Sorted:
    names = LoraNames(spec.num_layers)
    modules: defaultdict[str, dict[Part, str]] = defaultdict(dict)
    stored: dict[str, str] = {}
    left_out, unknown, doubled = [], [], []
    has = {name.rpartition(".")[0] for name in shapes} | shapes.keys()
    for name in sorted(tensors):
        found: LoraTensor | None = names.read(name)
        if found is None:
            unknown.append(name)
        elif found.module not in has:
            left_out.append(name)
        elif found.part in modules[found.module]:
            doubled.append(name)
        else:
            modules[found.module][found.part] = name
            stored[found.module] = found.stored
    return Sorted({name: parts for name, parts in modules.items() if parts}, stored, left_out, unknown, doubled)


def _weight_of(module: str, part: Part, shapes: Mapping[str, Shape]) -> str:
    """Weight that a whole difference is added to. A table has no weight and bias: it is the module itself."""
    return module if module in shapes else f"{module}{ENDS.get(part, '')}"


def _read_alphas(path: Path, header: FileHeader, modules: Modules) -> dict[str, float]:
    """Module -> the alpha that is stored with it; NaN where that is not one number of a dtype that is known."""
    stored = {module: parts["alpha"] for module, parts in modules.items() if "alpha" in parts}
    are_short = [name for name in stored.values() if _num_bytes(header.tensors[name]) <= MAX_ALPHA_BYTES]
    values = contents(path, header, are_short)
    return {module: _number(header.tensors[name].dtype, values.get(name, b"")) for module, name in stored.items()}


def _number(dtype: str, content: bytes) -> float:
    if dtype == "BF16":
        dtype, content = "F32", b"\0\0" + content  # its upper half
    try:
        (value,) = struct.unpack(NUMBERS[dtype], content)
    except (KeyError, struct.error):
        return math.nan
    return float(value)


def _told_scales(scales: list[Scale]) -> list[str]:
    kinds = Counter(scales).most_common()
    if len(kinds) <= 1:
        return [str(scale) for scale, _ in kinds]
    if len(kinds) <= MAX_KINDS_TOLD:
        return [f"{scale} of {count}" for scale, count in kinds]
    values, ranks = sorted(scale.value for scale, _ in kinds), sorted(scale.rank for scale, _ in kinds)
    return [
        f"{len(kinds)} kinds of alpha and rank",
        f"ranks {ranks[0]} to {ranks[-1]}",
        f"alpha/rank {plain(values[0], 3)} to {plain(values[-1], 3)}",
    ]


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _num_bytes(tensor: StoredTensor) -> int:
    start, end = tensor.data_offsets
    return end - start
