"""Checkpoints of Wan, however they come, as folders in Diffusers layout.

Run as `python -m ringlight.families.wan.convert SOURCE FOLDER DTYPE FAMILY`: this is what `ringlight convert` does.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ringlight.core.checkpoint import INDEX, TOKENIZER, Checkpoint
from ringlight.core.config import DEFAULTS_FILE, EngineConfig
from ringlight.core.eight_bit import is_scale
from ringlight.core.errors import RinglightError
from ringlight.core.output import make_readable
from ringlight.core.weights import STEMS, is_named, networks_of
from ringlight.families.table import JSON_FILES, checkpoint_of, model_of
from ringlight.families.wan.card import PROCESSOR, PROCESSOR_CONFIG
from ringlight.families.wan.headers import TIED_NAMES, in_our_names
from ringlight.families.wan.loaded import WanNetworks
from ringlight.kernels.widening import widened
from ringlight.models.loading import Extremes, WeightFiles, require_match

AS_STORED = "auto"
KEPT = ("vae", "image_encoder")  # as they are stored, whatever else is asked
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def convert(config: EngineConfig, folder: Path, dtype: str = AS_STORED) -> None:
    """Write a checkpoint as a folder, one tensor after another. Raises InvalidCheckpoint and OSError.

    Weights of transformers and text encoder are written in `dtype`, or as they are stored, what is quantised in
    bfloat16. Those of VAE and image encoder are always as they are stored.
    """
    checkpoint = checkpoint_of(config)
    spec = model_of(checkpoint)
    networks = WanNetworks(config, checkpoint, spec, torch.device("meta"), None)
    named = networks.by_name
    files = {
        name: WeightFiles(checkpoint.part(name), STEMS[name], TIED_NAMES, in_our_names)
        for name in networks_of(checkpoint)
    }
    for name, network in named.items():
        require_match(files[name], network.checkpoint_slots())
    _write_documents(checkpoint, folder)
    for name in files:
        wanted = AS_STORED if name in KEPT else dtype
        _write_weights(files[name], folder / name / f"{STEMS[name]}.safetensors", wanted)


def _write_documents(checkpoint: Checkpoint, folder: Path) -> None:
    names = [f"{name}/config.json" for name in networks_of(checkpoint)]
    names += [PROCESSOR_CONFIG] if is_named(checkpoint.json(INDEX), PROCESSOR) else []
    for name in dict.fromkeys((*JSON_FILES, *names)):
        document = checkpoint.json(name)
        document.pop("quantization_config", None)
        _write_json(folder / name, document)
    tokenizer, target = checkpoint.part(TOKENIZER), folder / TOKENIZER
    target.mkdir()
    for path in tokenizer.glob("*.json") if tokenizer.is_dir() else [tokenizer]:
        shutil.copyfile(path, target / path.name)
    if (defaults := checkpoint.folder / DEFAULTS_FILE).is_file():
        shutil.copyfile(defaults, folder / DEFAULTS_FILE)


def _write_weights(files: WeightFiles, path: Path, dtype: str) -> None:
    """Write all tensors of a network, one in memory at a time. Raises InvalidCheckpoint for what is not finite."""
    stored = files.stored.tensors
    names = sorted((name for name in stored if not is_scale(name)), key=lambda name: (stored[name].path, name))
    wanted = {name: _dtype(stored[name].dtype, dtype) for name in names}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + _num_bytes(stored[name].shape, wanted[name])
        header[name] = {"dtype": NAMES[wanted[name]], "shape": stored[name].shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    extremes = Extremes()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for origin, name, tensor, scale in files.tensors(names):
            values = (tensor if scale is None else widened(tensor, scale)).to(wanted[name])
            extremes.add(origin, values)
            file.write(_bytes(values))
    make_readable(path)
    extremes.require_finite()


def _dtype(stored: str, asked: str) -> torch.dtype:
    if asked != AS_STORED:
        found: torch.dtype = getattr(torch, asked)
        return found
    return next((dtype for dtype, name in NAMES.items() if name == stored), torch.bfloat16)


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Convert what the command line names; an error is one line."""
    source, folder, dtype, family = sys.argv[1:]
    try:
        convert(EngineConfig(model_path=source, model_family=family), Path(folder), dtype)
    except (RinglightError, OSError) as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
