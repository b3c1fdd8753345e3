"""Seconds and peaks of memory, with the device synchronised at both ends of whatever is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from gpu.scale import GIB

Run = Callable[[], object]

SAMPLE_SECONDS = 0.02  # a shorter run is repeated within one sample, so that the clock's own cost does not show
MAX_CALLS = 100


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `samples` samples, the least and the most."""

    seconds: float
    least: float
    most: float
    samples: int

    def __str__(self) -> str:
        spread = f"{show_seconds(self.least)} to {show_seconds(self.most)}"
        return f"{show_seconds(self.seconds)} (median of {self.samples}, {spread})"


@dataclass(frozen=True)
class Peak:
    """Peaks of the caching allocator in bytes, weights included; zeros on a CPU."""

    allocated_bytes: int
    reserved_bytes: int

    def __str__(self) -> str:
        return f"peak {self.allocated_bytes / GIB:.2f} GiB allocated, {self.reserved_bytes / GIB:.2f} GiB reserved"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Run, device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, over `calls` calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def median_timing(run: Run, device: torch.device, samples: int = 5, limit_seconds: float = 10.0) -> Timing:
    """The median of several samples after two warm-up calls; fewer samples once `limit_seconds` are spent on them.

    On a CPU, where the self-test runs and timings mean nothing, two calls are enough to go all the way.
    """
    if device.type == "cpu":
        taken = [timed(run, device) for _ in range(2)]
        return Timing(median(taken), min(taken), max(taken), len(taken))
    timed(run, device)
    calls = max(1, min(MAX_CALLS, int(SAMPLE_SECONDS / max(timed(run, device), 1e-6))))
    taken = []
    while len(taken) < samples and (not taken or sum(taken) * calls < limit_seconds):
        taken.append(timed(run, device, calls))
    return Timing(median(taken), min(taken), max(taken), len(taken))


def start_peak(device: torch.device) -> None:
    """Forget earlier peaks, cached memory given back first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: torch.device) -> Peak:
    """The peaks since `start_peak`."""
    if device.type != "cuda":
        return Peak(0, 0)
    return Peak(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


def show_seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e3:.3f} ms"
