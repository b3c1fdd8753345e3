"""Host: the cores and the memory that this process may use, of the machine and of the container around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CONTAINER_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup version 2 and 1


def num_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Main memory, or the container's share of it."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(Path("/sys/fs/cgroup"))])


def _limits(root: Path) -> Iterator[int]:
    """What the containers allow; one that is no number is none."""
    for name in CONTAINER_LIMITS:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)
