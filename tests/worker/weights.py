"""Checkpoint folders to damage, and the network that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ringlight.families.model import ModelSpec
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.models.loading import WeightFiles, load_weights, materialise

STEM = "diffusion_pytorch_model"
FILE = f"{STEM}.safetensors"
INDEX = f"{STEM}.safetensors.index.json"


class Slots:
    """A network of nothing but tensors."""

    def __init__(self, **slots: Tensor) -> None:
        self._slots = slots

    def checkpoint_slots(self) -> dict[str, Tensor]:
        return self._slots


def copy(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint with the transformer's weights alone; returns the transformer's folder."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    (folder / "vae" / FILE).unlink()
    return folder / "transformer"


def empty_transformer(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> WanTransformer:
    """The network with all weights zero."""
    with torch.device("meta"):
        network = WanTransformer(spec.transformer)
    materialise(network, torch.device("cpu"), dtype, WanTransformer.KEPT_IN_FLOAT32)
    for slot in network.checkpoint_slots().values():
        slot.zero_()
    return network


def load(folder: Path, spec: ModelSpec) -> WanTransformer:
    """The network with the weights of a folder. Raises what loading raises."""
    network = empty_transformer(spec)
    load_weights(network, WeightFiles(folder))
    return network


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a file."""
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.unlink()
    safetensors.torch.save_file(tensors, path)
