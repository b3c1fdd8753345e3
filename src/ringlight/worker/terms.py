"""What all ranks of a group must have in common, or they would wait for each other or mix two models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import torch

from ringlight.core.checkpoint import TOKENIZER, Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.messages import WorkerSetup
from ringlight.core.stored_network import require_whole
from ringlight.core.weights import network_files, networks_of
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import checkpoint_of, model_of
from ringlight.worker.environment import versions

SAMPLE_BYTES = 2**16


def terms_of(
    setup: WorkerSetup, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype, loras: LoraLibrary
) -> dict[str, str]:
    """By the names that people know them by, in text. Raises InvalidCheckpoint."""
    config, place = setup.config, setup.place
    checkpoint = checkpoint_of(config)
    terms = {
        "num-gpus": place.num_ranks,
        "ranks on a node": place.num_local,
        "device": device.type,
        "dtype": str(dtype),
        "vae-dtype": str(vae_dtype),
        "attention": config.attention,
        "load-format": config.load_format,
        "decode-chunk": config.decode_chunk,
        "num-slices": config.num_slices,
        "memory-budget": config.memory_budget_bytes,
        "weights (--memory-budget says where)": "on the host" if place.shelf >= 0 else "on the device",
        "watchdog-timeout": config.watchdog_timeout,
        "limits": msgspec.json.encode(setup.limits).decode(),
        "checkpoint": digest(checkpoint, with_weights=config.load_format != "dummy"),
        "lora": ", ".join(f"{lora} (sha256 {lora.sha256[:12]})" for lora in loras.always) or "none",
    }
    return {name: str(value) for name, value in terms.items()} | versions()


def digest(checkpoint: Checkpoint, with_weights: bool) -> str:
    """Twelve digits for a checkpoint: its numbers, its tokenizer, and size, head, middle and tail of its weights.

    Cheap on tens of gigabytes, and no fine-tune of a model passes for the model. Raises InvalidCheckpoint.
    """
    found = hashlib.sha256(model_of(checkpoint).fingerprint.encode())
    require_whole(checkpoint, with_weights)
    tokenizer = checkpoint.part(TOKENIZER)
    try:
        for path in sorted(filter(Path.is_file, tokenizer.glob("*"))) if tokenizer.is_dir() else [tokenizer]:
            found.update(path.name.encode() + path.read_bytes())
        for name in networks_of(checkpoint) if with_weights else ():
            for path in network_files(checkpoint, name):
                found.update(f"{name}/{path.name}".encode() + _sample(path))
    except OSError as error:
        raise InvalidCheckpoint(f"{error.filename}: not readable: {error.strerror}") from None
    return found.hexdigest()[:12]


def _sample(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        sample = size.to_bytes(8)
        for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            file.seek(start)
            sample += file.read(SAMPLE_BYTES)
    return sample
