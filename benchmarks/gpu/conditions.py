"""The conditions that the numbers of a run travel with."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from conditions import answer, command, commit, versions
from gpu.scale import GIB

PACKAGES = ("ringlight", "diffusers", "tokenizers", "safetensors", "av", "msgspec", "numpy", "triton")


def conditions(self_test: bool, given_commit: str | None) -> dict[str, Any]:
    """Date, versions, commit (the checkout's own where none is given) and command, as plain JSON. Touches no device."""
    return {
        "self_test": self_test,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "versions": versions(PACKAGES),
        "commit": given_commit or commit(),
        "command": command(sys.argv),
    }


def device_conditions(device: torch.device) -> dict[str, Any]:
    """What the device is, and how it stands at the start."""
    if device.type != "cuda":
        return {"device": platform.processor() or platform.machine(), "driver": None}
    properties = torch.cuda.get_device_properties(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(total_bytes / GIB, 1),
        "free_gib_at_start": round(free_bytes / GIB, 1),
        "cudnn": torch.backends.cudnn.version(),
        "driver": answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "clocks_at_start": answer(
            ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        ),
    }
