"""Reading weights: safetensors only, memory-mapped, piece by piece to their place, dtype and device.

A network says where each tensor of its checkpoint goes (`checkpoint_slots`: name there -> a view of a parameter
here). Names missing or extra and wrong shapes are found from the headers, before any weight is read, and listed in
one error. A slot on the meta device is another rank's: held to the headers like all others, so that every rank finds
the same, but neither read nor filled here. Beside the parameters themselves the device holds a piece at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ringlight.core.eight_bit import is_scale, scale_of, weight_of
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.gguf_file import SUFFIX, GgufTensor, read_gguf
from ringlight.core.presence import MAX_NAME, listed, require_files
from ringlight.core.stored_network import StoredNetwork, StoredWeight, read_network
from ringlight.core.weights import damaged, weight_files
from ringlight.kernels.widening import HELD, WidenedLinear, widened
from ringlight.models.gguf_tensors import parts_of_blocks, widened_gguf

SPECIAL = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}  # the least of the patterns that are no finite number
DEVIATIONS = 8  # of random numbers, to which those of eight bits reach
PIECE_BYTES = 32 * 2**20  # of what passes through a device beside the weights


class HasSlots(Protocol):
    """A network that knows the names and shapes of its checkpoint."""

    def checkpoint_slots(self) -> dict[str, Tensor]: ...


class Origin(NamedTuple):
    """A tensor's file, and its name there."""

    path: Path
    name: str


class WeightFiles:
    """The safetensors files of one network: a single file, or shards with an index."""

    def __init__(
        self,
        place: Path,
        stem: str = "diffusion_pytorch_model",
        aliases: Mapping[str, str] | None = None,
        in_our_names: Callable[[StoredNetwork], StoredNetwork] = lambda stored: stored,
    ) -> None:
        """Find the files of `place`, a file or a folder.

        `aliases` maps a second name of a tied tensor to its first; a checkpoint may hold either or both. `in_our_names`
        gives the tensors the names of slots.
        """
        self.place = place
        paths = weight_files(place, stem)
        require_files(place.parent if place.is_file() else place, [path.name for path in paths])
        self.stored = in_our_names(read_network(paths, aliases))

    def tensors(self, wanted: Collection[str]) -> Iterator[tuple[Origin, str, Tensor, Tensor | None]]:
        """Yield the tensors of these names, memory-mapped, one file open at a time.

        Those in eight bits that are not held so come with their scales. Others are not touched.
        """
        by_file: dict[Path, list[str]] = defaultdict(list)
        for name in wanted:
            by_file[self._weight(name).path].append(name)
        for path, names in by_file.items():
            if path.suffix == SUFFIX:
                tensors = read_gguf(path)
                for name in names:
                    yield Origin(path, name), name, self._of_gguf(tensors, name, wanted), None
                continue
            with _opened(path) as file:
                for name in names:
                    yield self._read(file, name, wanted)

    def _read(self, file: Any, name: str, wanted: Collection[str]) -> tuple[Origin, str, Tensor, Tensor | None]:
        weight = self._weight(name)
        scale = None if weight.scale is None else _rows_of(file.get_tensor(weight.scale.name).float(), weight.shape)
        if name not in self.stored.tensors:  # the scale that it is held with
            found = torch.ones(weight.shape[0], 1) if scale is None else scale
            return Origin(weight.path, f"{weight.name}, scale"), name, found, None
        is_held = scale_of(name) in wanted
        return Origin(weight.path, weight.name), name, file.get_tensor(weight.name), None if is_held else scale

    def _of_gguf(self, tensors: Mapping[str, GgufTensor], name: str, wanted: Collection[str]) -> Tensor:
        """A weight, widened but where it is held in eight bits, or the scales that it is held with."""
        weight = self._weight(name)
        found = tensors[weight.name]
        is_scales, is_held = name not in self.stored.tensors, scale_of(name) in wanted
        if is_scales or is_held:
            assert weight.eight_bit is not None
            scales, numbers = parts_of_blocks(found, weight.eight_bit.group)
            return scales if is_scales else numbers
        return widened_gguf(found)

    def _weight(self, name: str) -> StoredWeight:
        """The weight of this name, or of which this is the scale."""
        return self.stored.tensors.get(name) or self.stored.tensors[weight_of(name)]


def _rows_of(scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A scale for each row of a weight: (rows, 1, ...)."""
    return scale.reshape(-1, *[1] * (len(shape) - 1)).expand(shape[0], *[1] * (len(shape) - 1))


class Extremes:
    """Extremes of every piece of a tensor, left on its device until all are asked for at once.

    NaN comes through both, so a piece is finite where they are. One pass, without memory, exact at any size; counting
    with `isfinite` takes ten times as long.
    """

    def __init__(self) -> None:
        self._found: list[tuple[Origin, tuple[Tensor, ...]]] = []

    def add(self, origin: Origin, values: Tensor) -> None:
        """Look at a piece of a tensor. On a GPU nothing waits for the answer."""
        if values.numel() and values.dtype != torch.int8:
            self._found.append((origin, torch.aminmax(_comparable(values))))

    def require_finite(self) -> None:
        """Raise InvalidCheckpoint that names the tensors that hold NaN or infinity, and their files."""
        if not self._found:
            return
        bounds = torch.stack([bound.double() for _, pair in self._found for bound in pair])
        are_finite = bounds.isfinite().view(-1, 2).all(dim=1).tolist()
        bad = {origin for (origin, _), well in zip(self._found, are_finite, strict=True) if not well}
        names: dict[Path, list[str]] = {}
        for path, name in sorted(bad):
            names.setdefault(path, []).append(name)
        if names:
            said = "; ".join(f"{path}: {listed(found)}" for path, found in names.items())
            raise InvalidCheckpoint(
                f"{said}: NaN or infinity among the weights; what wrote the file (a merge, a conversion) went wrong, "
                "or it is damaged: take another"
            )


def _comparable(values: Tensor) -> Tensor:
    """Numbers to compare; for eight bits, of which torch tells no extremes, infinite ones if one of them is."""
    if values.dtype not in SPECIAL:
        return values
    magnitudes = values.view(torch.uint8) & 0x7F
    largest = torch.aminmax(magnitudes)[1]
    return torch.where(largest >= SPECIAL[values.dtype], math.inf, 0.0)


def load_weights(network: HasSlots, files: WeightFiles, piece_bytes: int = PIECE_BYTES) -> None:
    """Fill a network's parameters from its files. Raises InvalidCheckpoint naming all that does not match.

    Also for NaN and infinity, once all is loaded: what is not finite would run, and make a wrong video in silence.
    """
    slots = network.checkpoint_slots()
    require_match(files, slots)
    extremes = Extremes()
    read_weights(here(slots), files, extremes, piece_bytes)
    extremes.require_finite()


def here(slots: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Slots that belong to this rank."""
    return {name: slot for name, slot in slots.items() if not slot.is_meta}


def read_weights(
    slots: Mapping[str, Tensor], files: WeightFiles, extremes: Extremes | None = None, piece_bytes: int = PIECE_BYTES
) -> None:
    """Fill slots from files that are known to match, and look at what comes where `extremes` are asked for."""
    with torch.no_grad():
        for origin, name, tensor, scale in files.tensors(slots):
            slot = slots[name]
            pieces = zip(_pieces(tensor, piece_bytes), _pieces(slot, piece_bytes), strict=True)
            scales = None if scale is None else iter(_like_pieces(scale, tensor, piece_bytes))
            for stored, place in pieces:
                moved = stored.to(slot.device)
                if scales is not None:
                    moved = widened(moved, next(scales).to(slot.device))
                place.copy_(moved)
                if extremes is not None:
                    # The narrower of both is less to read, and what is too large for it has become infinite there.
                    is_widened = moved.itemsize < place.itemsize and scales is None
                    extremes.add(origin, moved if is_widened else place)


def materialise(
    network: nn.Module, device: torch.device, dtype: torch.dtype, kept_in_float32: Iterable[str] = ()
) -> None:
    """Allocate the (unfilled) memory of a network that was built on the meta device.

    It gets `dtype`, but float32 where a name says so, and the held format for matrices in eight bits.

    A parameter that stands in several places (a tied table) stays one tensor.
    """
    kept = tuple(kept_in_float32)
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_name}.{name}".split(".")
            wanted = torch.float32 if any(part in kept for part in path) else dtype
            if name in HELD and isinstance(module, WidenedLinear):
                wanted = parameter.dtype
            if parameter not in made:
                empty = torch.empty(parameter.shape, dtype=wanted, device=device)
                made[parameter] = nn.Parameter(empty, requires_grad=False)
            module.register_parameter(name, made[parameter])
        if isinstance(module, WidenedLinear):
            module.compute_in(dtype, device)


def fill_random(
    network: HasSlots, seed: int, piece_bytes: int = PIECE_BYTES, device: torch.device | None = None
) -> None:
    """Fill weights with random values, scaled so that signals neither die nor explode (for benchmarks and demos).

    They are drawn on `device` (None: where the weights lie), so that they are the same wherever these lie.

    Gains of norms (vectors without a bias of the same layer) are ones, biases small, matrices of variance 1/fan-in.
    A tensor's numbers come from the seed and its place among the names of all ranks: the same however they are split.
    """
    slots = network.checkpoint_slots()
    with torch.no_grad():
        for position, name in enumerate(sorted(slots)):
            slot = slots[name]
            if slot.is_meta:
                continue
            drawn_on = device or slot.device
            generator = torch.Generator(drawn_on).manual_seed(seed * 1_000_003 + position)
            fan_in = math.prod(slot.shape[1:])
            for piece in _pieces(slot, piece_bytes):
                noise = torch.empty(piece.shape, device=drawn_on).normal_(generator=generator)
                if is_scale(name):
                    weight = slots[weight_of(name)]
                    noise.fill_(DEVIATIONS / (_most(weight.dtype) * math.sqrt(weight.shape[1])))
                elif slot.itemsize == 1:
                    noise.clamp_(-DEVIATIONS, DEVIATIONS).mul_(_most(slot.dtype) / DEVIATIONS)
                elif _is_gain(name, slot):
                    noise.mul_(0.1).add_(1)
                elif slot.dim() < 2 or name.endswith(".bias"):
                    noise.mul_(0.02)
                else:
                    noise.div_(math.sqrt(fan_in))
                piece.copy_(noise)


def _pieces(tensor: Tensor, piece_bytes: int) -> tuple[Tensor, ...]:
    """Runs of rows that take no more than so many bytes in float32, or single rows; alike for tensors of one shape."""
    if tensor.dim() == 0:
        return (tensor,)
    rows = max(1, piece_bytes // (4 * max(1, math.prod(tensor.shape[1:]))))
    return tuple(tensor.split(rows))


def _like_pieces(scale: Tensor, tensor: Tensor, piece_bytes: int) -> Iterable[Tensor]:
    """The scales of each piece's rows."""
    return scale.split([len(piece) for piece in _pieces(tensor, piece_bytes)]) if tensor.dim() else [scale]


def _most(dtype: torch.dtype) -> float:
    """Largest number of eight bits."""
    return float(torch.iinfo(dtype).max if dtype == torch.int8 else torch.finfo(dtype).max)


def _is_gain(name: str, slot: Tensor) -> bool:
    return name.endswith(("gamma", "layer_norm.weight")) or (name.endswith("weight") and slot.dim() == 1)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None


def require_match(files: WeightFiles, slots: Mapping[str, Tensor]) -> None:
    """Raise InvalidCheckpoint that names all that does not match, from the headers alone.

    Scales of weights that are not held in eight bits have no slots.
    """
    found = {name: shape for name, shape in files.stored.shapes.items() if name in slots or not is_scale(name)}
    wrong = []
    if missing := sorted(slots.keys() - found.keys()):
        wrong.append(f"missing {listed(missing)}")
    if extra := sorted(found.keys() - slots.keys()):
        wrong.append(f"not of this model {listed(extra)}")
    misshapen = [
        f"{name[:MAX_NAME]} {list(found[name])}, expected {list(slots[name].shape)}"
        for name in sorted(slots.keys() & found.keys())
        if found[name] != tuple(slots[name].shape)
    ]
    if misshapen:
        wrong.append(f"of the wrong shape {listed(misshapen)}")
    if wrong:
        raise InvalidCheckpoint(f"{files.place}: weights do not match config.json: {'; '.join(wrong)}")
