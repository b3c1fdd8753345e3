"""Which kernels a call spends its time in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.clock import show_seconds, synchronize
from gpu.report import Row

LISTED = 12
MAX_NAME_CHARS = 110


def profile_rows(label: str, run: Callable[[], object], device: torch.device) -> Iterator[Row]:
    """The kernels (on a CPU, the operators) with the most time of their own in one call after a warm-up, then all."""
    run()
    synchronize(device)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        run()
        synchronize(device)
    spent = [
        ((event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6, event.count, event.key)
        for event in profiled.key_averages()
        if event.device_type.name == ("CUDA" if on_gpu else "CPU")
    ]
    total = sum(seconds for seconds, _, _ in spent)
    for seconds, count, name in sorted(spent, reverse=True)[:LISTED]:
        short = name if len(name) <= MAX_NAME_CHARS else name[:MAX_NAME_CHARS] + " ..."
        measured = f"{show_seconds(seconds)} in {count} calls, {seconds / total:.1%}"
        yield Row(f"{label}: {short}", measured, numbers={"seconds": seconds, "calls": count, "kernel": name})
    yield Row(f"{label}: all", f"{show_seconds(total)} in {len(spent)} kinds of kernel", numbers={"seconds": total})
