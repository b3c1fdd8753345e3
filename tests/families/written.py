"""Checkpoints as people have them, written from one in Diffusers layout: single files, in original names, in 8 bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ringlight.core.weights import STEMS
from ringlight.families.table import read_model
from ringlight.families.wan.original import NameTable, text_encoder_names, transformer_names, vae_names
from ringlight.families.wan.work.vae import VaeSpec

Tensors = dict[str, Tensor]
FILES = {
    "transformer": "diffusion_models/wan_fp.safetensors",
    "vae": "vae/wan_vae.safetensors",
    "text_encoder": "text_encoders/umt5.safetensors",
}
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}


def tensors_of(checkpoint: Path, name: str) -> Tensors:
    """All of a network, in the names that Diffusers layout has."""
    return safetensors.torch.load_file(checkpoint / name / f"{STEMS[name]}.safetensors")


def names_of(checkpoint: Path, name: str) -> NameTable:
    """The names of a network's tensors."""
    spec = read_model(checkpoint)
    assert isinstance(spec.vae, VaeSpec)
    if name == "vae":
        return vae_names(len(spec.vae.dim_mult), spec.vae.num_res_blocks, spec.vae.is_residual)
    if name == "transformer":
        return transformer_names(spec.transformer.num_layers)
    return text_encoder_names(len(spec.text_encoder.layers.parts) - 1)


def in_original_names(checkpoint: Path, name: str, tensors: Mapping[str, Tensor], prefix: str = "") -> Tensors:
    """The same tensors as Wan's own code calls them."""
    table = names_of(checkpoint, name)
    return {f"{prefix}{table.original(each)}": tensor for each, tensor in tensors.items()}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def single_files(
    checkpoint: Path, folder: Path, change: Callable[[str, Tensors], Tensors] = lambda name, tensors: tensors
) -> Path:
    """A folder as ComfyUI has it, with networks in original names; `change` sees each in diffusers' names first."""
    for name, file in FILES.items():
        tensors = change(name, tensors_of(checkpoint, name))
        prefix = "model.diffusion_model." if name == "transformer" else ""
        write(folder / file, in_original_names(checkpoint, name, tensors, prefix))
    shutil.copy(checkpoint / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    return folder


def card(checkpoint: Path, folder: Path, **parts: Any) -> Path:
    """A YAML card of the files in a folder, with what headers do not tell of a checkpoint."""
    config = json.loads((checkpoint / "transformer" / "config.json").read_text())
    vae = json.loads((checkpoint / "vae" / "config.json").read_text())
    said: dict[str, Any] = {**FILES, "tokenizer": "tokenizer.json"} | {
        "config": {
            "transformer": {key: config[key] for key in ("num_attention_heads", "attention_head_dim")},
            "vae": {key: vae[key] for key in ("latents_mean", "latents_std")},
            "scheduler": {"flow_shift": read_model(checkpoint).scheduler.flow_shift},
        }
    }
    said = {key: value for key, value in (said | parts).items() if value is not ...}
    path = folder / "wan.yaml"
    path.write_text(json.dumps(said))  # which is YAML too
    return path


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is one of a block's matrices, which files in eight bits have so."""
    return tensor.dim() == 2 and "block" in name and "relative" not in name and "table" not in name


def quantised(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, per_row: bool = False, scale_name: str = "weight_scale"
) -> Tensors:
    """Matrices in eight bits with their scales beside them."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if not is_matrix(name, tensor):
            out[name] = tensor
            continue
        most = tensor.abs().amax(1, keepdim=True) if per_row else tensor.abs().amax()
        scale = (most / LARGEST[dtype]).float()
        numbers = tensor / scale
        out[name] = (numbers.round() if dtype == torch.int8 else numbers).to(dtype)
        out[name.removesuffix("weight") + scale_name] = scale.squeeze()
    return out


def by_hand(tensors: Mapping[str, Tensor], scale_name: str = "weight_scale") -> Tensors:
    """What those stand for, in float32: each number widened, times its scale."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(f".{scale_name}"):
            continue
        scale = tensors.get(name.removesuffix("weight") + scale_name)
        if tensor.itemsize == 1:
            wide = tensor.float()
            out[name] = wide if scale is None else wide * (scale if scale.dim() == 0 else scale[:, None])
        else:
            out[name] = tensor
    return out


def rewritten(checkpoint: Path, folder: Path, change: Callable[[str, Tensors], Tensors]) -> Path:
    """A copy of a checkpoint in Diffusers layout with other weights."""
    shutil.copytree(checkpoint, folder)
    for name, stem in STEMS.items():
        write(folder / name / f"{stem}.safetensors", change(name, tensors_of(checkpoint, name)))
    return folder
