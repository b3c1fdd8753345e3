"""Terms that all ranks of a group must have in common, or they would wait for each other or mix two models."""

from __future__ import annotations

import msgspec
import torch

from ringlight.core.messages import WorkerSetup
from ringlight.families.digest import digest
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import checkpoint_of
from ringlight.worker.environment import versions


def terms_of(
    setup: WorkerSetup, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype, loras: LoraLibrary
) -> dict[str, str]:
    """Terms of the group by the names that people know them by, as text. Raises InvalidCheckpoint."""
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
