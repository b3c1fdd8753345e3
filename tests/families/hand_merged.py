"""LoRAs of all that a transformer has, and the same checkpoint with them merged by hand, in float32."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ringlight.core.lora import Delta, Difference, Lora, LoraFile, Target
from ringlight.core.weights import STEMS
from tests.families.written import Tensors, tensors_of, write


@dataclass(frozen=True)
class HandMade:
    """A LoRA and its file, with what it holds."""

    lora: Lora
    file: LoraFile
    stored: Tensors

    @property
    def pair(self) -> tuple[Lora, LoraFile]:
        return self.lora, self.file

    def merged(self, tensors: Tensors) -> Tensors:
        """Weights with it, as the formula has it: each sum in float32, rounded once to what the weight is."""
        out = {name: tensor.float() for name, tensor in tensors.items()}
        for delta in self.file.deltas:
            up, down = (self.stored[name].flatten(1) for name in (delta.up, delta.down))
            added = self.lora.strength * delta.scale * (up @ down)
            out[delta.weight] = out[delta.weight] + added.view(out[delta.weight].shape)
        for difference in self.file.differences:
            out[difference.weight] = out[difference.weight] + self.lora.strength * self.stored[difference.stored]
        return {name: tensor.to(tensors[name].dtype) for name, tensor in out.items()}


def hand_made(
    path: Path,
    checkpoint: Path,
    seed: int = 0,
    size: float = 0.2,
    strength: float = 0.8,
    target: Target = "both",
    only: Collection[str] | None = None,
    differences: bool = True,
    whole: Collection[str] = (),
) -> HandMade:
    """A LoRA of all matrices of a checkpoint's transformer (or of `only` these names), each of so much of their size,
    and of all biases, norms and tables; `whole` tensors are differences too."""
    generator = torch.Generator().manual_seed(seed)
    stored, deltas, others, rank = {}, [], [], 3
    for name, weight in sorted(tensors_of(checkpoint, "transformer").items()):
        if only is not None and name not in only:
            continue
        if name.endswith(".weight") and weight.dim() > 1 and name not in whole:
            rank = 2 + rank % 4
            inputs = math.prod(weight.shape[1:])
            stored[f"{name}.up"] = torch.randn(len(weight), rank, generator=generator)
            stored[f"{name}.down"] = torch.randn(rank, inputs, generator=generator)
            unit = float(weight.float().norm()) / math.sqrt(weight.numel() * rank)
            deltas.append(
                Delta(weight=name, up=f"{name}.up", down=f"{name}.down", rank=rank, scale=size * unit / strength)
            )
        elif differences:
            stored[f"{name}.diff"] = size * weight.float().std() * torch.randn(weight.shape, generator=generator)
            others.append(Difference(weight=name, stored=f"{name}.diff"))
    write(path, stored)
    file = LoraFile(
        path=path,
        sha256=f"{seed:064x}",
        num_bytes=sum(tensor.nbytes for tensor in stored.values()),
        deltas=tuple(deltas),
        differences=tuple(others),
        told=f"{len(deltas)} modules",
    )
    lora = Lora(name=path.stem, strength=strength, target=target, sha256=file.sha256, num_bytes=file.num_bytes)
    return HandMade(lora, file, stored)


def merged_by_hand(checkpoint: Path, folder: Path, *loras: HandMade) -> Path:
    """A copy of a checkpoint with these LoRAs in its transformer, or in the experts that they are for."""
    shutil.copytree(checkpoint, folder)
    for number, name in enumerate(("transformer", "transformer_2")):
        if (folder / name).is_dir():
            tensors = tensors_of(checkpoint, name)
            wide = {each: tensor.float() for each, tensor in tensors.items()}
            for lora in loras:
                if number in lora.lora.experts:
                    wide = lora.merged(wide)
            write(folder / name / f"{STEMS[name]}.safetensors", wide)
    return folder


def summed(base: Tensors, loras: Collection[HandMade]) -> Tensors:
    """Weights with several: what they add is summed before it is added to them."""
    nothing = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in base.items()}
    for lora in loras:
        nothing = lora.merged(nothing)
    return {name: (tensor.float() + nothing[name]).to(tensor.dtype) for name, tensor in base.items()}


def loaded(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)
