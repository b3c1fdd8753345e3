"""LoRAs of all that a transformer has, and the same checkpoint with them merged by hand, in float32."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.lora import Delta, Difference, Lora, LoraFile, Target
from ringlight.core.report import AdaptedReport
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.weights import STEMS
from ringlight.families.wan.recipe import WanRecipe
from ringlight.kernels.linear import Linear
from tests.families.videos import make_request
from tests.families.written import Tensors, tensors_of, write
from tests.ours import CPU
from tests.pipelines.test_placed import feed_late

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class HandMade:
    """A LoRA and its file, with what it holds."""

    lora: Lora
    file: LoraFile
    stored: Tensors

    @property
    def pair(self) -> tuple[Lora, LoraFile]:
        return self.lora, self.file

    def add_to(self, sums: Tensors) -> None:
        """What it adds to each weight, in float32, as the formula has it."""
        for delta in self.file.deltas:
            up, down = (self.stored[name].flatten(1) for name in (delta.up, delta.down))
            sums[delta.weight] += (self.lora.strength * delta.scale * (up @ down)).view(sums[delta.weight].shape)
        for difference in self.file.differences:
            sums[difference.weight] += self.lora.strength * self.stored[difference.stored]


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
            own = [lora for lora in loras if number in lora.lora.experts]
            write(folder / name / f"{STEMS[name]}.safetensors", summed(wide, own))
    return folder


def summed(base: Tensors, loras: Collection[HandMade]) -> Tensors:
    """Weights with several: what they add is summed before it is added to them."""
    sums = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in base.items()}
    for lora in loras:
        lora.add_to(sums)
    return {name: (tensor.float() + sums[name]).to(tensor.dtype) for name, tensor in base.items()}


def loaded(folder: Path, dtype: torch.dtype = FLOAT32, **how: Any) -> WanRecipe:
    """A pipeline of its own, for its weights are changed; `shelf` -1 has them on the host."""
    torch.set_num_threads(1)
    shelf, as_a_gpu = how.pop("shelf", None), how.pop("as_a_gpu", False)
    config = EngineConfig(model_path=str(folder), device="cpu", **how)
    recipe = WanRecipe(config, RequestLimits(), CPU, dtype, FLOAT32, shelf=shelf)
    if as_a_gpu:
        feed_late(recipe)
    return recipe


def few_steps(recipe: WanRecipe, **fields: Any) -> VideoRequest:
    return make_request(recipe.spec, **{"num_inference_steps": 2, "num_frames": 5} | fields)


def adapt(recipe: WanRecipe, *loras: HandMade) -> AdaptedReport:
    return recipe.networks.adapt([lora.pair for lora in loras])


def weights_of(recipe: WanRecipe, expert: int = 0) -> dict[str, Tensor]:
    """By the checkpoint's names, as they lie at the moment."""
    network, found = recipe.networks.experts[expert], {}
    plain: dict[Linear, Tensor] = {}
    for module in network.modules():
        if isinstance(module, Linear) and module.held is None and not module.weight.numel():
            assert module._packed is not None
            plain[module] = module.weight.data
            module.weight.data = module._packed.to_dense()
    found = {name: slot.clone() for name, slot in network.checkpoint_slots().items()}
    for module, nothing in plain.items():
        module.weight.data = nothing
    return found


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, each in expected.items() if not torch.equal(found[name], each)]


def small_and_large(folder: Path, checkpoint: Path, **how: Any) -> tuple[HandMade, ...]:
    """A LoRA that bfloat16 keeps, of most weights, and one that it would eat, of others."""
    names = [name for name in tensors_of(checkpoint, "transformer") if "attn1.to_k." in name or "ffn.net.0" in name]
    large = [name for name in tensors_of(checkpoint, "transformer") if name not in names]
    return (
        hand_made(folder / "large.safetensors", checkpoint, only=large, **how),
        hand_made(folder / "small.safetensors", checkpoint, seed=1, size=0.003, only=names, differences=False, **how),
    )
