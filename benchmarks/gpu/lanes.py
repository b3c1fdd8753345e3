"""NCCL as far as one GPU goes: a world of one, with gloo as the default group and NCCL beside it, opened twice.

NCCL refuses two ranks on one GPU: messages between ranks need two GPUs, and stay untested here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.distributed_c10d import _abort_process_group

from gpu.clock import show_seconds, synchronize
from gpu.report import Row, within
from gpu.scale import Scale
from gpu.section import Section
from ringlight.parallel.link import PATIENCE, Link

VALUE = 3.0


def run(section: Section, scale: Scale) -> None:
    backend = "nccl" if scale.device.type == "cuda" else "gloo"
    section.attempt(f"a world of one over {backend}", partial(_open_twice, scale, backend))


def _open_twice(scale: Scale, backend: str) -> Iterator[Row]:
    """Open, reduce, wait, open again in its place, reduce, abort."""
    device = scale.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    link = Link()
    for number in ("first", "second, in its place"):
        start = time.perf_counter()
        link.open("nccl" if backend == "nccl" else "gloo", device)
        opened = time.perf_counter() - start
        value = torch.full((4,), VALUE, device=device)
        link.reset()
        with link.waiting("ring", on_cuda=device.type == "cuda"):
            dist.all_reduce(value, group=link.lane(0, 0))
        waited = link.report()["ring"].wait_seconds
        told = f"opened in {show_seconds(opened)}; sum of one {float(value[0]):g}, waited {show_seconds(waited)}"
        yield within(f"{backend}, {number}", told, f"{VALUE:g}", float(value[0]) == VALUE, waited=waited)
    start = time.perf_counter()
    _abort_process_group(link.lane(0, 0)) if backend == "nccl" else dist.destroy_process_group(link.lane(0, 0))
    synchronize(device)
    name = f"{backend}, {'aborted' if backend == 'nccl' else 'destroyed'}"
    yield Row(name, show_seconds(time.perf_counter() - start))
