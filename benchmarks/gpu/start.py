"""What everything else stands on: the device and its versions, memory that is free, and attention kernels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from gpu import kernels
from gpu.conditions import device_conditions
from gpu.report import Row, within
from gpu.scale import GIB, Scale
from gpu.section import Section

CUDNN = 91501  # 9.15.1: earlier ones have wrong or slow bfloat16 convolutions (pytorch#163539, #166643)
FREE_SHARE = 0.9


def run(section: Section, scale: Scale) -> None:
    """A minute in which to see that the rest is worth its time."""
    found = device_conditions(scale.device)
    section.say(found)
    section.add(Row("device", "; ".join(f"{name} {value}" for name, value in found.items())))
    section.attempt("versions and memory", partial(_check_device, scale))
    kernels.run(section, scale)


def _check_device(scale: Scale) -> Iterator[Row]:
    if scale.device.type != "cuda":
        yield Row("versions and memory", "no CUDA device is asked", verdict="not supported")
        return
    cudnn = torch.backends.cudnn.version() or 0
    yield within("cuDNN", f"{cudnn}", f"{CUDNN} or newer", cudnn >= CUDNN, cudnn=cudnn)
    free_bytes, total_bytes = torch.cuda.mem_get_info(scale.device)
    told = f"{free_bytes / GIB:.1f} of {total_bytes / GIB:.1f} GiB"
    yield within("free memory", told, f"{FREE_SHARE:.0%}", free_bytes >= FREE_SHARE * total_bytes, bytes=free_bytes)
    capability = torch.cuda.get_device_capability(scale.device)
    architectures = torch.cuda.get_arch_list()
    told = f"{capability[0]}.{capability[1]}; built for {', '.join(architectures)}"
    yield within("torch is built for the device", told, "a kernel runs", _one_and_one(scale.device) == 2.0)


def _one_and_one(device: torch.device) -> float:
    return float(torch.ones(1, device=device) + 1)
