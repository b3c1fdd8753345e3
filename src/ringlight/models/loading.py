"""Reading weights: safetensors only, memory-mapped, piece by piece to their place, dtype and device.

A network says where each tensor of its checkpoint goes (`checkpoint_slots`: name there -> a view of a parameter
here). Names missing or extra and wrong shapes are found from the headers, before any weight is read, and listed in
one error. A slot on the meta device is another rank's: held to the headers like all others, so that every rank finds
the same, but neither read nor filled here. Beside the parameters themselves the device holds a piece at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.presence import MAX_NAME, listed, require_files
from ringlight.core.weights import damaged, stored_shapes, weight_files

PIECE_BYTES = 32 * 2**20  # of what passes through a device beside the weights


class HasSlots(Protocol):
    """A network that knows the names and shapes of its checkpoint."""

    def checkpoint_slots(self) -> dict[str, Tensor]: ...


class Origin(NamedTuple):
    """A tensor's file, and its name there."""

    path: Path
    name: str


class WeightFiles:
    """The safetensors files of one network's folder: a single file, or shards with an index."""

    def __init__(
        self, folder: Path, stem: str = "diffusion_pytorch_model", aliases: Mapping[str, str] | None = None
    ) -> None:
        """`aliases` maps a second name of a tied tensor to its first; a checkpoint may hold either or both."""
        self.folder = folder
        self.aliases = aliases or {}
        self.paths = weight_files(folder, stem)
        require_files(folder, [path.name for path in self.paths])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, from the headers alone. Raises InvalidCheckpoint for what is no weight."""
        return stored_shapes(self.paths, self.aliases)

    def tensors(self, wanted: Collection[str]) -> Iterator[tuple[Path, str, Tensor]]:
        """The tensors of these names, memory-mapped, one file open at a time. Others are not touched."""
        for path in self.paths:
            with _opened(path) as file:
                for stored in file.keys():  # noqa: SIM118 - not a dict
                    name = self.aliases.get(stored, stored)
                    if name in wanted:
                        yield path, name, file.get_tensor(stored)


class Extremes:
    """The least and the greatest value of every piece of a tensor, left on its device until all are asked for at once.

    NaN comes through both, so a piece is finite where they are. One pass, without memory, exact at any size; counting
    with `isfinite` takes ten times as long.
    """

    def __init__(self) -> None:
        self._found: list[tuple[Origin, tuple[Tensor, ...]]] = []

    def add(self, origin: Origin, values: Tensor) -> None:
        """Look at a piece of a tensor. On a GPU nothing waits for the answer."""
        if values.numel():
            self._found.append((origin, torch.aminmax(values)))

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


def load_weights(network: HasSlots, files: WeightFiles, piece_bytes: int = PIECE_BYTES) -> None:
    """Fill a network's parameters from its files. Raises InvalidCheckpoint naming all that does not match.

    Also for NaN and infinity, once all is loaded: what is not finite would run, and make a wrong video in silence.
    """
    slots = network.checkpoint_slots()
    require_match(files, slots)
    extremes = Extremes()
    read_weights({name: slot for name, slot in slots.items() if not slot.is_meta}, files, extremes, piece_bytes)
    extremes.require_finite()


def read_weights(
    slots: Mapping[str, Tensor], files: WeightFiles, extremes: Extremes | None = None, piece_bytes: int = PIECE_BYTES
) -> None:
    """Fill slots from files that are known to match, and look at what comes where `extremes` are asked for."""
    with torch.no_grad():
        for path, name, tensor in files.tensors(slots):
            for stored, slot in zip(_pieces(tensor, piece_bytes), _pieces(slots[name], piece_bytes), strict=True):
                moved = stored.to(slot.device)
                slot.copy_(moved)
                if extremes is not None:
                    # The narrower of both is less to read, and what is too large for it has become infinite there. Of
                    # eight bits torch tells no extremes.
                    is_widened = 1 < moved.itemsize < slot.itemsize
                    extremes.add(Origin(path, name), moved if is_widened else slot)


def materialise(
    network: nn.Module, device: torch.device, dtype: torch.dtype, kept_in_float32: Iterable[str] = ()
) -> None:
    """Give a network built on the meta device its (unfilled) memory: `dtype`, but float32 where a name says so.

    A parameter that stands in several places (a tied table) stays one tensor.
    """
    kept = tuple(kept_in_float32)
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_name}.{name}".split(".")
            wanted = torch.float32 if any(part in kept for part in path) else dtype
            if parameter not in made:
                empty = torch.empty(parameter.shape, dtype=wanted, device=device)
                made[parameter] = nn.Parameter(empty, requires_grad=False)
            module.register_parameter(name, made[parameter])


def fill_random(
    network: HasSlots, seed: int, piece_bytes: int = PIECE_BYTES, device: torch.device | None = None
) -> None:
    """Random weights in place, scaled so that signals neither die nor explode (for benchmarks and demos).

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
                if _is_gain(name, slot):
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


def _is_gain(name: str, slot: Tensor) -> bool:
    return name.endswith(("gamma", "layer_norm.weight")) or (name.endswith("weight") and slot.dim() == 1)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None


def require_match(files: WeightFiles, slots: Mapping[str, Tensor]) -> None:
    """Raise InvalidCheckpoint that names all that does not match, from the headers alone."""
    found = files.shapes()
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
        raise InvalidCheckpoint(f"{files.folder}: weights do not match config.json: {'; '.join(wrong)}")
