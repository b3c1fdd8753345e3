"""Adapters of a network, read from the files of LoRAs that are matched with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.lora import LoraFile
from ringlight.kernels.adapter import Adapter, Addend, FullRank, LowRank
from ringlight.models.loading import Extremes, Origin


def read_adapters(file: LoraFile, strength: float, shapes: Mapping[str, torch.Size]) -> dict[str, Adapter]:
    """Adapters of a LoRA by the checkpoint's names of weights, which have these shapes; in memory of the host.

    It is read whole, for the file may be replaced while it is in use. Raises InvalidCheckpoint where it holds NaN or
    infinity, or cannot be read any more.
    """
    names = {name for delta in file.deltas for name in (delta.up, delta.down)}
    stored = _tensors(file, names | {difference.stored for difference in file.differences})
    found: dict[str, list[Addend]] = {}
    for delta in file.deltas:
        product = LowRank(stored[delta.up], stored[delta.down], strength * delta.scale)
        found.setdefault(delta.weight, []).append(product)
    for difference in file.differences:
        values = stored[difference.stored].reshape(shapes[difference.weight])
        found.setdefault(difference.weight, []).append(FullRank(values, strength))
    return {name: Adapter(tuple(addends)) for name, addends in found.items()}


def _tensors(file: LoraFile, names: set[str]) -> dict[str, Tensor]:
    extremes, stored = Extremes(), {}
    try:
        with safe_open(file.path, framework="pt", device="cpu") as opened:
            for name in sorted(names):
                stored[name] = opened.get_tensor(name).clone()
                extremes.add(Origin(file.path, name), stored[name])
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{file.path}: cannot be read any more: {error}") from None
    extremes.require_finite()
    return stored
