"""The conditions that the numbers of a run travel with."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("ringlight", "diffusers", "tokenizers", "safetensors", "av", "msgspec", "numpy", "triton")
ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def conditions(device: torch.device, self_test: bool, commit: str | None) -> dict[str, Any]:
    """Date, device, versions, commit (the checkout's own where none is given) and command, as plain JSON."""
    return {
        "self_test": self_test,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **_device(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": commit or _commit(),
        "command": shlex.join(["python", *sys.argv]),
    }


def _device(device: torch.device) -> dict[str, Any]:
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
        "driver": _answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "clocks_at_start": _answer(
            ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        ),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    """The commit, with + where tracked files are changed; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    head = _answer([*git, "rev-parse", "--short=12", "HEAD"])
    if head is None:
        return None
    return head + ("+" if _answer([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def _answer(command: list[str]) -> str | None:
    """The output of a command on one line, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else None
