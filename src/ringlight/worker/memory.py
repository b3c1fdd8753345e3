"""Peaks of memory of a job in this process: the caching allocator's on CUDA, the resident size on a CPU."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import torch

from ringlight.core.host import give_back_freed
from ringlight.core.report import MemoryReport

STATUS, STATM = Path("/proc/self/status"), Path("/proc/self/statm")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.005
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets the peak resident set size


class CudaMeter:
    """Meter of the caching allocator, the weights included."""

    def __init__(self, device: torch.device, rank: int) -> None:
        self._device = device
        self._rank = rank
        self._peaks = (0, 0)
        self._others_bytes = 0

    def tidy(self) -> None:
        """Give back the cached memory of a turn that is over."""
        torch.cuda.empty_cache()

    def start(self, others_bytes: int = 0, own_bytes: int = 0) -> None:
        """Start a job's turn: forget earlier peaks.

        `others_bytes` lie there of other jobs, and are counted nowhere; `own_bytes` of its own, from an earlier turn.
        """
        torch.cuda.reset_peak_memory_stats(self._device)
        self._peaks = (0, 0)
        self._others_bytes = others_bytes

    def reset(self) -> None:
        self._fold()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """Peak reserved since the last reset."""
        return torch.cuda.max_memory_reserved(self._device) - self._others_bytes

    def report(self) -> MemoryReport:
        """Peaks since `start`."""
        self._fold()
        reserved, allocated = self._peaks
        overhead = reserved - allocated
        return MemoryReport(
            rank=self._rank,
            device=str(self._device),
            peak_reserved_bytes=reserved,
            peak_allocated_bytes=allocated,
            overhead_bytes=overhead,
            overhead_ratio=overhead / reserved if reserved else 0.0,
        )

    def _fold(self) -> None:
        reserved, allocated = self._peaks
        self._peaks = (
            max(reserved, torch.cuda.max_memory_reserved(self._device) - self._others_bytes),
            max(allocated, torch.cuda.max_memory_allocated(self._device) - self._others_bytes),
        )


class ResidentMeter:
    """The resident size of the process, whose peak Linux keeps and can reset. Where it does not, there is no report."""

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._others_bytes = 0
        self._idle = 0
        self._peak = 0
        self._measures = can_reset_peak()

    def tidy(self) -> None:
        """Give back freed memory after a turn, so that what is resident then is the idle worker."""
        gc.collect()
        give_back_freed()

    def start(self, others_bytes: int = 0, own_bytes: int = 0) -> None:
        """Start a job's turn: what is resident now is the idle worker.

        `others_bytes` of other jobs are counted nowhere, and `own_bytes` are the job's own, from an earlier turn.
        """
        self._others_bytes = others_bytes
        self.reset()
        self._peak = 0
        self._idle = self._read("VmRSS") - own_bytes

    def reset(self) -> None:
        self._peak = max(self._peak, self.peak_bytes())
        if self._measures:
            CLEAR_REFS.write_text(RESET_PEAK)

    def peak_bytes(self) -> int:
        """Peak resident size since the last reset."""
        return self._read("VmHWM")

    def report(self) -> MemoryReport:
        """Peaks since `start`, and the growth over the idle worker."""
        if not self._measures:
            return MemoryReport(rank=self._rank, device="cpu")
        peak = max(self._peak, self.peak_bytes())
        return MemoryReport(
            rank=self._rank,
            device="cpu",
            peak_resident_bytes=peak,
            idle_resident_bytes=self._idle,
            resident_growth_bytes=peak - self._idle,
        )

    def _read(self, field: str) -> int:
        if not self._measures:
            return 0
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 - self._others_bytes
        raise OSError(f"{STATUS} has no {field}")


class OwnMeter(ResidentMeter):
    """Peak of a process's own memory, beside weights that it shares with others: anonymous memory.

    Linux keeps no peak of it, so a thread looks every few milliseconds, from `start` to `report`.
    """

    def __init__(self, rank: int = 0) -> None:
        super().__init__(rank)
        self._lock = threading.Lock()
        self._own_peak = self._stage_peak = 0
        self._watched = threading.Event()
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def start(self, others_bytes: int = 0, own_bytes: int = 0) -> None:
        super().start(others_bytes, own_bytes)
        with self._lock:
            self._own_peak = self._stage_peak = 0
        self._watched.set()

    def reset(self) -> None:
        super().reset()
        with self._lock:
            self._stage_peak = 0

    def peak_bytes(self) -> int:
        """Peak of anonymous memory since the last reset."""
        self._look()
        return self._stage_peak

    def report(self) -> MemoryReport:
        """Peaks since `start`."""
        self._look()
        self._watched.clear()
        return MemoryReport(rank=self._rank, device="cpu", peak_own_bytes=self._own_peak)

    def _watch(self) -> None:
        while self._watched.wait():
            self._look()
            time.sleep(SAMPLE_SECONDS)

    def _look(self) -> None:
        with self._lock:  # from before the reading: a reset must not be followed by what was seen before it
            _, resident, shared, *_ = map(int, STATM.read_text().split())
            own = (resident - shared) * PAGE_BYTES - self._others_bytes
            self._stage_peak, self._own_peak = max(self._stage_peak, own), max(self._own_peak, own)


def can_reset_peak() -> bool:
    """Whether this kernel keeps a peak of the resident size that can be reset."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
        return "VmHWM:" in STATUS.read_text()
    except OSError:
        return False


def meter_for(device: torch.device, rank: int, shares_weights: bool) -> CudaMeter | ResidentMeter:
    """The meter of a rank's device. A CPU's rank that shares its weights is measured by what is its own."""
    if device.type == "cuda":
        return CudaMeter(device, rank)
    return OwnMeter(rank) if shares_weights else ResidentMeter(rank)
