"""LoRAs as people have them, written for a transformer in Diffusers layout, in every way that trainers call tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from ringlight.core.lora import NAMELESS
from ringlight.core.peft_config import CONFIG_FILE, METADATA_KEY
from ringlight.core.weights import STEMS
from ringlight.families.wan.original import transformer_names

Tensors = dict[str, Tensor]


class Kind(NamedTuple):
    """How a trainer calls things: `prefix` + a module's name + `down` or `up`; an alpha beside them, or in JSON."""

    prefix: str
    down: str
    up: str
    is_original: bool = True  # the module's name: Wan's own, else diffusers'
    is_joined: bool = False  # with underscores in the place of dots
    alpha: str = ".alpha"  # where a pair's alpha stands: beside it, in "metadata", in a "config" beside the file, or ""


A, B = ".lora_A.weight", ".lora_B.weight"
KINDS: dict[str, Kind] = {
    "comfy": Kind("diffusion_model.", A, B, alpha=""),
    "lightx2v": Kind("diffusion_model.", ".lora_down.weight", ".lora_up.weight"),
    "kohya": Kind("lora_unet_", ".lora_down.weight", ".lora_up.weight", is_joined=True),
    "onetrainer": Kind("lora_transformer_", ".lora_down.weight", ".lora_up.weight", is_original=False, is_joined=True),
    "diffusers": Kind("transformer.", A, B, is_original=False, alpha="metadata"),
    "diffusers-alpha": Kind("transformer.", A, B, is_original=False),
    "peft": Kind("base_model.model.", A, B, is_original=False, alpha="config"),
    "peft-original": Kind("base_model.model.", A, B, alpha="config"),
    "diffsynth": Kind("", ".lora_A.default.weight", ".lora_B.default.weight", alpha=""),
    "bare": Kind("", ".lora_A", ".lora_B", alpha=""),
    "attention-processors": Kind("transformer.", "_lora.down.weight", "_lora.up.weight", is_original=False, alpha=""),
    "lora-layers": Kind("transformer.", ".lora.down.weight", ".lora.up.weight", is_original=False),
    "linear-layers": Kind(
        "transformer.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", is_original=False
    ),
}
WHOLE = {".weight": ".diff", ".bias": ".diff_b"}  # of differences, in every kind


class Written(NamedTuple):
    """A LoRA that was written: its file, or folder, and what it adds at strength 1 to each tensor of the checkpoint, in
    diffusers' names and float32."""

    path: Path
    added: Tensors


def transformer_tensors(folder: Path) -> Tensors:
    """A transformer's folder, in the names of diffusers."""
    return safetensors.torch.load_file(folder / f"{STEMS['transformer']}.safetensors")


def is_block_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a matrix of a block, which trainers have LoRAs of."""
    return name.startswith("blocks.") and name.endswith(".weight") and tensor.dim() == 2


def write_lora(
    path: Path,
    transformer_folder: Path,
    kind: str = "lightx2v",
    rank: int = 4,
    alpha: float | None = None,
    modules: Callable[[str], bool] = lambda module: True,
    whole: Callable[[str], bool] = lambda tensor: False,
    seed: int = 0,
    size: float = 0.1,
    dtype: torch.dtype = torch.float32,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> Written:
    """Write a LoRA of all matrices of blocks that `modules` lets through (by names such as blocks.0.attn1.to_q), and
    whole differences of the tensors that `whole` names (blocks.0.norm2.bias).

    `alpha`: None is the rank, which scales by 1. `size`: of each product, of its weight's norm. `path` is a file, but a
    folder for the kinds of PEFT. `change` sees all tensors by their names in the file before they are written.
    """
    how, generator = KINDS[kind], torch.Generator().manual_seed(seed)
    tensors = transformer_tensors(transformer_folder)
    named = _namer(how, tensors)
    scale = 1.0 if alpha is None or not how.alpha else alpha / rank
    stored: Tensors = {}
    added: Tensors = {}
    for name, weight in tensors.items():
        module, _, last = name.rpartition(".")
        matrix = weight.flatten(1) if weight.dim() > 2 else weight
        if is_block_matrix(name, weight) and modules(module):
            down = torch.randn(rank, matrix.shape[1], generator=generator).to(dtype)
            up = torch.randn(len(weight), rank, generator=generator)
            up = (up * size * weight.norm() / (scale * up @ down.float()).norm()).to(dtype)
            stored |= {named(module) + how.down: down, named(module) + how.up: up}
            if how.alpha == ".alpha" and alpha is not None:
                stored[named(module) + how.alpha] = torch.tensor(alpha, dtype=torch.float32)
            added[name] = scale * (up.float() @ down.float())
        if whole(name):
            difference = (torch.randn(weight.shape, generator=generator) * size * weight.std()).to(dtype)
            if last != "scale_shift_table":
                stored[named(module) + WHOLE[f".{last}"]] = difference
            elif how.is_original:
                stored[named(name).removesuffix("modulation").rstrip("._") + ".diff_m"] = difference
            else:
                stored[f"{named(name)}.diff"] = difference
            added[name] = added.get(name, 0) + difference.float()
    config = {"r": rank, "lora_alpha": rank if alpha is None else alpha, "peft_type": "LORA"}
    return Written(_save(path, change(stored), how, config), added)


def expert_files(folder: Path, checkpoint: Path, kind: str = "lightx2v", **how: object) -> dict[str, Written]:
    """A pair for both experts, called as people's are: by the folder of each transformer."""
    names = {"transformer": "wan2.2_4steps_high_noise", "transformer_2": "wan2.2_4steps_low_noise"}
    return {
        expert: write_lora(folder / f"{name}.safetensors", checkpoint / expert, kind, seed=seed, **how)  # type: ignore[arg-type]
        for seed, (expert, name) in enumerate(names.items())
    }


def _namer(how: Kind, tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    """What the file calls a module of ours, with its prefix."""
    num_layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    table = transformer_names(num_layers)

    def named(module: str) -> str:
        name = table.original(module) if how.is_original else module
        return how.prefix + (name.replace(".", "_") if how.is_joined else name)

    return named


def _save(path: Path, stored: Tensors, how: Kind, config: Mapping[str, object]) -> Path:
    metadata = None
    if how.alpha == "metadata":
        metadata = {METADATA_KEY: json.dumps({f"transformer.{name}": value for name, value in config.items()})}
    file = path
    if how.alpha == "config":
        file = path / NAMELESS[0]
        path.mkdir(parents=True)
        (path / CONFIG_FILE).write_text(json.dumps(config))
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file, metadata)
    return path
