"""Reading weights: safetensors only, memory-mapped, each tensor straight to its place, dtype and device.

A network says where each tensor of its checkpoint goes (`checkpoint_slots`: name there -> a view of a parameter
here). Names missing or extra and wrong shapes are found from the headers, before any weight is read, and listed in
one error. A slot on the meta device is another rank's: held to the headers like all others, so that every rank finds
the same, but neither read nor filled here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.spec import read_json

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_LISTED = 8
MAX_NAME = 120
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class HasSlots(Protocol):
    """A network that knows the names and shapes of its checkpoint."""

    def checkpoint_slots(self) -> dict[str, Tensor]: ...


class WeightFiles:
    """The safetensors files of one network's folder: a single file, or shards with an index."""

    def __init__(
        self, folder: Path, stem: str = "diffusion_pytorch_model", aliases: Mapping[str, str] | None = None
    ) -> None:
        """`aliases` maps a second name of a tied tensor to its first; a checkpoint may hold either or both."""
        self.folder = folder
        self.aliases = aliases or {}
        index = folder / f"{stem}.safetensors.index.json"
        single = folder / f"{stem}.safetensors"
        if index.exists():
            names = _shard_names(index)
        elif single.exists():
            names = [single.name]
        else:
            raise InvalidCheckpoint(_explain_absence(folder, single.name))
        self.paths = [_require_inside(folder, folder / name) for name in names]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, from the headers alone. Raises InvalidCheckpoint for what is no weight."""
        found: dict[str, tuple[int, ...]] = {}
        seen: set[str] = set()
        for path in self.paths:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    header = file.get_slice(name)
                    if header.get_dtype() not in FLOAT_DTYPES:
                        raise InvalidCheckpoint(
                            f"{path}: {_listed([name])} is {header.get_dtype()}, no floating number"
                        )
                    if name in seen:
                        raise InvalidCheckpoint(f"{path}: {_listed([name])} stands in another file already")
                    seen.add(name)
                    found[self.aliases.get(name, name)] = tuple(header.get_shape())
        return found

    def tensors(self, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, memory-mapped, one file open at a time. Others are not touched."""
        for path in self.paths:
            with _opened(path) as file:
                for stored in file.keys():  # noqa: SIM118 - not a dict
                    name = self.aliases.get(stored, stored)
                    if name in wanted:
                        yield name, file.get_tensor(stored)


def load_weights(network: HasSlots, files: WeightFiles) -> None:
    """Fill a network's parameters from its files. Raises InvalidCheckpoint naming all that does not match."""
    slots = network.checkpoint_slots()
    _require_match(files, slots)
    here = {name: slot for name, slot in slots.items() if not slot.is_meta}
    with torch.no_grad():
        for name, tensor in files.tensors(here):
            here[name].copy_(tensor.to(here[name].device))


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
                empty = torch.empty_like(parameter, dtype=wanted, device=device)
                made[parameter] = nn.Parameter(empty, requires_grad=False)
            module.register_parameter(name, made[parameter])


def fill_random(network: HasSlots, seed: int) -> None:
    """Random weights in place, scaled so that signals neither die nor explode (for benchmarks and demos).

    Gains of norms (vectors without a bias of the same layer) are ones, biases small, matrices of variance 1/fan-in.
    A tensor's numbers come from the seed and its place among the names of all ranks: the same however they are split.
    """
    slots = network.checkpoint_slots()
    with torch.no_grad():
        for position, name in enumerate(sorted(slots)):
            slot = slots[name]
            if slot.is_meta:
                continue
            generator = torch.Generator(slot.device).manual_seed(seed * 1_000_003 + position)
            noise = torch.empty(slot.shape, device=slot.device).normal_(generator=generator)
            if _is_gain(name, slot):
                slot.copy_(1 + 0.1 * noise)
            elif slot.dim() < 2 or name.endswith(".bias"):
                slot.copy_(0.02 * noise)
            else:
                slot.copy_(noise / math.sqrt(math.prod(slot.shape[1:])))


def _is_gain(name: str, slot: Tensor) -> bool:
    return name.endswith(("gamma", "layer_norm.weight")) or (name.endswith("weight") and slot.dim() == 1)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        detail = " ".join(str(error).split())
        raise InvalidCheckpoint(
            f"{path}: not a readable safetensors file ({detail}); it is damaged or cut short: download it again"
        ) from None


def _shard_names(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InvalidCheckpoint(f"{index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InvalidCheckpoint(f"{index}: {name!r} is not the name of a safetensors file in its folder")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise InvalidCheckpoint(
            f"{index.parent}: {_listed(missing)} named by {index.name} but not there; download the folder whole"
        )
    return names


def _require_inside(folder: Path, path: Path) -> Path:
    """Refuse links that lead out of the checkpoint, but for the blobs of a Hugging Face cache's own repository."""
    target = path.resolve()
    root = folder.parent.resolve()
    roots = [root]
    snapshots = root.parent
    if snapshots.name == "snapshots":
        roots.append(snapshots.parent / "blobs")
    if not any(target.is_relative_to(root) for root in roots):
        raise InvalidCheckpoint(f"{path}: a link that leads out of the checkpoint, to {target}; copy the file in")
    return path


def _explain_absence(folder: Path, expected: str) -> str:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        return f"{folder}: holds pickled weights ({_listed(pickles)}), which can run code; convert to safetensors"
    if not folder.is_dir():
        return f"{folder}: no such folder; a checkpoint in Diffusers layout has it (download the folder whole)"
    return f"{folder}: no {expected} and no index of shards; download the folder whole"


def _require_match(files: WeightFiles, slots: dict[str, Tensor]) -> None:
    found = files.shapes()
    wrong = []
    if missing := sorted(slots.keys() - found.keys()):
        wrong.append(f"missing {_listed(missing)}")
    if extra := sorted(found.keys() - slots.keys()):
        wrong.append(f"not of this model {_listed(extra)}")
    misshapen = [
        f"{name[:MAX_NAME]} {list(found[name])}, expected {list(slots[name].shape)}"
        for name in sorted(slots.keys() & found.keys())
        if found[name] != tuple(slots[name].shape)
    ]
    if misshapen:
        wrong.append(f"of the wrong shape {_listed(misshapen)}")
    if wrong:
        raise InvalidCheckpoint(f"{files.folder}: weights do not match config.json: {'; '.join(wrong)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(ascii(name[:MAX_NAME])[1:-1] for name in names[:MAX_LISTED]) + more
