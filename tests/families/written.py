"""Checkpoints as people have them, written from one in Diffusers layout: single files, in original names, in 8 bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.weights import STEMS, TRANSFORMERS, networks_of
from ringlight.families.table import read_model
from ringlight.families.wan.original import NameTable, text_encoder_names, transformer_names, vae_names
from ringlight.families.wan.work.vae import VaeSpec

Tensors = dict[str, Tensor]
Change = Callable[[str, Tensors], Tensors]
FILES = {
    "transformer": "diffusion_models/wan_fp.safetensors",
    "vae": "vae/wan_vae.safetensors",
    "text_encoder": "text_encoders/umt5.safetensors",
}
EXPERTS = {
    "transformer": "diffusion_models/wan2.2_high_noise_14B_fp8_scaled.safetensors",
    "transformer_2": "diffusion_models/wan2.2_low_noise_14B_fp8_scaled.safetensors",
}
IMAGE_ENCODER = "clip_vision/clip_vision_h.safetensors"
UNTOLD = {  # of each config.json, by headers
    **dict.fromkeys(TRANSFORMERS, ("num_attention_heads", "attention_head_dim")),
    "vae": ("latents_mean", "latents_std"),
    "image_encoder": ("num_attention_heads",),
}
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}


def files_of(checkpoint: Path) -> dict[str, str]:
    """Where each network of a checkpoint lies among single files, called as people's are."""
    names = networks_of(Checkpoint(place=checkpoint))
    files = FILES | {"image_encoder": IMAGE_ENCODER} | (EXPERTS if "transformer_2" in names else {})
    return {name: files[name] for name in names}


def tensors_of(checkpoint: Path, name: str) -> Tensors:
    """All of a network, in the names that Diffusers layout has."""
    return safetensors.torch.load_file(checkpoint / name / f"{STEMS[name]}.safetensors")


def names_of(checkpoint: Path, name: str) -> NameTable:
    """The names of a network's tensors."""
    spec = read_model(checkpoint)
    assert isinstance(spec.vae, VaeSpec)
    if name == "vae":
        return vae_names(len(spec.vae.dim_mult), spec.vae.num_res_blocks, spec.vae.is_residual)
    if name in TRANSFORMERS:
        return transformer_names(spec.transformer.num_layers)
    if name == "image_encoder":  # which people have in the names of transformers
        return NameTable([])
    return text_encoder_names(len(spec.text_encoder.layers.parts) - 1)


def in_original_names(checkpoint: Path, name: str, tensors: Mapping[str, Tensor], prefix: str = "") -> Tensors:
    """The same tensors as Wan's own code calls them."""
    table = names_of(checkpoint, name)
    return {f"{prefix}{table.original(each)}": tensor for each, tensor in tensors.items()}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def single_files(checkpoint: Path, folder: Path, change: Change = lambda name, tensors: tensors) -> Path:
    """A folder as ComfyUI has it, with networks in original names; `change` sees each in diffusers' names first."""
    for name, file in files_of(checkpoint).items():
        tensors = change(name, tensors_of(checkpoint, name))
        prefix = "model.diffusion_model." if name in TRANSFORMERS else ""
        write(folder / file, in_original_names(checkpoint, name, tensors, prefix))
    shutil.copy(checkpoint / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    return folder


def card(checkpoint: Path, folder: Path, **parts: Any) -> Path:
    """A YAML card of the files in a folder, with what headers do not tell of a checkpoint."""
    files, untold = files_of(checkpoint), {}
    for name in files.keys() & UNTOLD.keys():
        numbers = json.loads((checkpoint / name / "config.json").read_text())
        untold[name] = {key: numbers[key] for key in UNTOLD[name]}
    untold["scheduler"] = {"flow_shift": read_model(checkpoint).scheduler.flow_shift}
    said: dict[str, Any] = {**files, "tokenizer": "tokenizer.json", "config": untold}
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


def fp8_scaled(name: str, tensors: Tensors) -> Tensors:
    """As ComfyUI wrote it at first."""
    if name in ("vae", "image_encoder"):
        return tensors
    out = quantised(tensors, torch.float8_e4m3fn, scale_name="scale_weight")
    unit = {f"{each.removesuffix('weight')}scale_input": torch.ones(()) for each in out if out[each].itemsize == 1}
    return out | unit | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}


def widened_by_hand(change: Change, scale_name: str) -> Change:
    """The same weights, as floating numbers in the names of Diffusers layout."""
    drop = ("scaled_fp8", "comfy_quant", "scale_input", "input_scale", "_amax")

    def widen(name: str, tensors: Tensors) -> Tensors:
        found = by_hand(change(name, tensors), scale_name)
        return {each: tensor for each, tensor in found.items() if not each.endswith(drop)}

    return widen


def rewritten(checkpoint: Path, folder: Path, change: Change) -> Path:
    """A copy of a checkpoint in Diffusers layout with other weights."""
    shutil.copytree(checkpoint, folder)
    for name in networks_of(Checkpoint(place=checkpoint)):
        write(folder / name / f"{STEMS[name]}.safetensors", change(name, tensors_of(checkpoint, name)))
    return folder


def refusal(place: Path, model_family: str = "") -> str:
    """What a checkpoint is refused with, in one line."""
    with pytest.raises(InvalidCheckpoint) as caught:
        read_model(place, model_family)
    assert "\n" not in str(caught.value)
    return str(caught.value)
