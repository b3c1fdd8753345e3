"""Peaks of resident memory: what was used and given back again still counts, until a new job begins."""

from __future__ import annotations

import mmap

import pytest
import torch

from ringlight.worker.memory import ResidentMeter, meter_for

MIB = 2**20
SLACK = 16 * MIB


def use(num_bytes: int, flags: int = mmap.MAP_PRIVATE) -> None:
    """Touch so many bytes, and give them back to the system."""
    with mmap.mmap(-1, num_bytes, flags) as memory:
        for page in range(0, num_bytes, mmap.PAGESIZE):
            memory[page] = 1


def test_a_peak_that_is_over_still_counts() -> None:
    meter = ResidentMeter()
    meter.start()
    use(64 * MIB)
    report = meter.report()
    assert report.resident_growth_bytes is not None
    assert 60 * MIB < report.resident_growth_bytes < 64 * MIB + SLACK
    assert report.peak_resident_bytes == report.peak_bytes
    assert report.idle_resident_bytes == report.peak_bytes - report.resident_growth_bytes
    assert report.peak_reserved_bytes is None


def test_stages_have_their_own_peaks_and_the_run_the_highest() -> None:
    meter = ResidentMeter()
    meter.start()
    use(96 * MIB)
    first = meter.peak_bytes()
    meter.reset()
    use(32 * MIB)
    second = meter.peak_bytes()
    assert first - second > 64 * MIB - SLACK
    assert meter.report().peak_bytes >= first


@pytest.mark.slow
def test_a_new_job_forgets_earlier_peaks() -> None:
    meter = ResidentMeter()
    meter.start()
    use(96 * MIB)
    meter.start()
    growth = meter.report().resident_growth_bytes
    assert growth is not None
    assert growth < SLACK


def test_what_other_jobs_keep_is_counted_nowhere_and_its_own_is_growth() -> None:
    meter = ResidentMeter()
    meter.start()
    alone = meter.report()
    theirs, own = torch.ones(16 * MIB), torch.ones(12 * MIB)  # glibc may take less than 32 MiB from what is freed
    meter.start(theirs.nbytes, own.nbytes)
    shared = meter.report()
    assert abs(shared.idle_resident_bytes - alone.idle_resident_bytes) < SLACK
    assert abs(shared.resident_growth_bytes - own.nbytes) < SLACK
    assert abs(shared.peak_bytes - alone.peak_bytes - own.nbytes) < SLACK


def test_the_meter_of_a_cpu() -> None:
    meter = meter_for(torch.device("cpu"), rank=3, shares_weights=False)
    assert isinstance(meter, ResidentMeter)
    assert meter.report().rank == 3


def test_what_is_shared_is_not_a_ranks_own() -> None:
    meter = meter_for(torch.device("cpu"), rank=3, shares_weights=True)
    meter.start()
    idle = meter.peak_bytes()
    use(64 * MIB, mmap.MAP_SHARED)
    assert meter.peak_bytes() < idle + SLACK
    kept = torch.ones(16 * MIB)
    first = meter.peak_bytes()
    assert 60 * MIB < first - idle < 64 * MIB + SLACK
    del kept
    meter.reset()
    assert meter.peak_bytes() < idle + SLACK
    report = meter.report()
    assert (report.rank, report.peak_own_bytes) == (3, report.peak_bytes)
    assert report.peak_bytes >= first
    assert report.peak_resident_bytes is None
