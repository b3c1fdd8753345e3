"""Host: the cores and the memory that this process may use, of the machine and of the container around it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CONTAINER_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup version 2 and 1
CONTAINERS = Path("/sys/fs/cgroup")
PROCESS, MEMORY = Path("/proc/self/cgroup"), Path("/proc/meminfo")
LEFT_BYTES = 2**30  # of what the host has, beside a copy of the weights
UNLIMITED = 2**60  # what version 1 says where nothing is bounded is above this


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
    """Bytes of main memory, or of the container's share of it."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(containers)])


def available_bytes(containers: Path = CONTAINERS, process: Path = PROCESS, memory: Path = MEMORY) -> int:
    """Bytes of memory that can still be had: on the host, or in any container around this process.

    A container counts files that were read as its own; those make room when memory is asked for.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", memory.read_text(), re.MULTILINE)
    rooms = [] if found is None else [1024 * int(found[1])]
    for folder in _around(containers, process):
        for limit, current in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, used = _number(folder / limit), _number(folder / current)
            if most is not None and most < UNLIMITED and used is not None:
                rooms.append(most - used + _files_bytes(folder / "memory.stat"))
    return max(0, min(rooms, default=memory_bytes(containers)))


def left_in_files(networks: Iterable[tuple[str, int]], missing_bytes: int, available_bytes: int) -> list[str]:
    """Names of networks that stay in their files because the host has too little memory for a copy.

    A copy needs `missing_bytes` more than the host has left; networks that are named first stay first.
    """
    left = []
    for name, num_bytes in networks:
        if missing_bytes <= available_bytes - LEFT_BYTES:
            break
        left.append(name)
        missing_bytes -= num_bytes
    return left


def give_back_freed() -> None:
    """Return freed memory to the system, if the C library can do that; glibc's can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _around(containers: Path, process: Path) -> Iterator[Path]:
    """Yield the folders of all containers around this process, the innermost first, as far as they can be seen."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            root = containers / kinds
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _files_bytes(path: Path) -> int:
    """Bytes of a container's memory that are cached files."""
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(fields.get(name, 0)) for name in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _limits(root: Path) -> Iterator[int]:
    """Yield the containers' memory limits in bytes, skipping those that are not numbers ("max")."""
    return filter(None, (_number(root / name) for name in CONTAINER_LIMITS))
