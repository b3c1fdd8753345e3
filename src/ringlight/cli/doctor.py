"""`ringlight doctor`: what a bug report needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from ringlight.core.config import worker_environment
from ringlight.core.host import memory_bytes, num_cores

PACKAGES = (
    "ringlight",
    "torch",
    "diffusers",
    "tokenizers",
    "safetensors",
    "av",
    "numpy",
    "pillow",
    "msgspec",
)

# Asked of a process of its own: this one never imports torch.
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "threads": torch.get_num_threads(),
    "built_for_cuda": torch.version.cuda,
    "devices": [
        {"name": p.name, "memory_gib": round(p.total_memory / 2**30, 1), "capability": f"{p.major}.{p.minor}"}
        for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count() if cuda else 0))
    ],
    "mkldnn": torch.backends.mkldnn.is_available(),
    "nccl": torch.distributed.is_nccl_available() if torch.distributed.is_available() else False,
    "gloo": torch.distributed.is_gloo_available() if torch.distributed.is_available() else False,
}))
"""


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a bug report needs: versions, device, memory, codecs. Exit code 4 if torch cannot be imported."""
    facts = gather()
    if json_:
        print(json.dumps(facts, indent=2))
    else:
        for group, values in facts.items():
            print(group)
            for name, value in values.items():
                print(f"  {name:<16} {value}")
    if "error" in facts["torch"]:
        sys.exit(4)


def gather() -> dict[str, dict[str, Any]]:
    """Facts by group."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "platform": platform.platform(),
            "cpus": num_cores(),
            "memory_gib": round(memory_bytes() / 2**30, 1),
            "disk_free_gib": round(shutil.disk_usage(os.getcwd()).free / 2**30, 1),
        },
        "torch": _ask_torch(),
        "codecs": _codecs(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("RINGLIGHT_", "CUDA_", "NCCL_", "GLOO_", "OMP_", "MKL_", "PYTORCH_", "TORCH_"))
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _ask_torch() -> dict[str, Any]:
    asked = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, env=worker_environment(), check=False
    )
    if asked.returncode:
        return {"error": asked.stderr.strip().splitlines()[-1] if asked.stderr else "no answer"}
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def _codecs() -> dict[str, Any]:
    import av  # here, because only this command needs it

    wanted = ("libx264", "libvpx-vp9")
    return {name: name in av.codecs_available for name in wanted}
