"""Host: the cores and the memory that this process may use, of the machine and of the container around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CONTAINER_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup version 2 and 1
CONTAINERS = Path("/sys/fs/cgroup")


def num_cores(containers: Path = CONTAINERS) -> int:
    """CPU cores that this process may run on, or the container's share of their time in whole cores."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (containers / "cpu.max").read_text().split()
    except (OSError, ValueError):  # no container, or one of the first version
        return cores
    return min(cores, max(1, int(quota) // int(period))) if quota.isdecimal() else cores


def cores_each(num_ranks: int) -> int:
    """Cores for each of so many ranks that share the machine, at least one."""
    return max(1, num_cores() // num_ranks)


def memory_bytes(containers: Path = CONTAINERS) -> int:
    """Main memory, or the container's share of it."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(containers)])


def _limits(root: Path) -> Iterator[int]:
    """What the containers allow; one that is no number is none."""
    for name in CONTAINER_LIMITS:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)
