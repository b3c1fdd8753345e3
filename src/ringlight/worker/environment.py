"""Environment of a worker: its device and dtypes, and what it tells of its surroundings in every report."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ringlight.core.config import EngineConfig
from ringlight.core.cudnn import REMEDY, convolution_fault
from ringlight.core.errors import InvalidLayout, InvalidSetting
from ringlight.core.host import cores_each, memory_bytes
from ringlight.core.messages import RankPlace

PACKAGES = ("ringlight", "torch", "diffusers", "tokenizers", "av")


def choose_device(config: EngineConfig, place: RankPlace) -> torch.device:
    """Choose the device of this rank; auto is CUDA if there is one.

    Raises InvalidSetting where CUDA is asked for and not there, InvalidLayout where there are fewer devices than ranks.
    """
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        raise InvalidSetting(
            f"--device cuda: torch {torch.__version__} (built for CUDA: {built}) sees no CUDA device; "
            "install a CUDA build of torch and a driver, or use --device cpu"
        )
    if (found := torch.cuda.device_count()) < place.first_device + place.num_local:
        taken = f" after the {place.first_device} of other replicas" if place.first_device else ""
        raise InvalidLayout(
            f"{place.num_local} ranks on this machine need a CUDA device each{taken}, and torch sees {found}; "
            f"use {'fewer replicas' if taken else f'--num-gpus {found}'}, or --device cpu"
        )
    device = torch.device("cuda", place.first_device + place.local_rank)
    torch.cuda.set_device(device)
    return device


def choose_dtypes(config: EngineConfig, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Choose the dtypes (networks, VAE). Auto is bfloat16 on CUDA, float32 on a CPU, where bfloat16 is slow."""
    automatic = "bfloat16" if device.type == "cuda" else "float32"
    name = automatic if config.dtype == "auto" else config.dtype
    return getattr(torch, name), getattr(torch, config.vae_dtype)


def require_right_convolutions(config: EngineConfig, device: torch.device, vae_dtype: torch.dtype) -> None:
    """Raise InvalidSetting where the VAE would go through convolutions that are known to be wrong."""
    if device.type != "cuda" or (vae_dtype == torch.float32 and not config.tf32):
        return
    if (fault := convolution_fault(torch.backends.cudnn.version())) is not None:
        raise InvalidSetting(f"{fault}; {REMEDY}")


def apply_settings(config: EngineConfig, device: torch.device, num_local: int) -> None:
    """Set what torch keeps for the whole process: threads, and TensorFloat-32 in convolutions only.

    Ranks that share a machine's CPU share its cores. Products in bfloat16 are summed in float32 throughout: where they
    are split depends on how many rows a rank has.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    elif device.type == "cpu" and num_local > 1:
        torch.set_num_threads(cores_each(num_local))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = config.tf32


def describe(
    config: EngineConfig, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype, kernel: str
) -> dict[str, Any]:
    """Describe the conditions that a measurement travels with."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "memory_bytes": _memory_bytes(device),
        "dtype": str(dtype).removeprefix("torch."),
        "vae_dtype": str(vae_dtype).removeprefix("torch."),
        "attention_kernel": kernel,
        "tf32": config.tf32 if device.type == "cuda" else None,
        "load_format": config.load_format,
        "memory_budget_bytes": config.memory_budget_bytes or None,
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "versions": versions(),
        "commit": _commit(),
    }


def _memory_bytes(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_bytes()


@cache
def versions() -> dict[str, str]:
    """The versions of what a video depends on; torch's own says what it is built for, and its package's need not."""
    return {package: _version(package) for package in PACKAGES} | {"torch": str(torch.__version__)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "not installed"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Commit of a source checkout, with + if it is changed; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
