"""Watching processes: whether they are there, and waiting until they are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def ends(pid: int, within_seconds: float = 30.0) -> bool:
    """Wait for a process to end; False if it still runs after so long."""
    try:
        wait_until(lambda: not is_alive(pid), within_seconds)
    except TimeoutError:
        return False
    return True


def wait_until(is_so: Callable[[], object], within_seconds: float = 60.0, poll_seconds: float = 0.01) -> None:
    """Wait for something to become true. Raises TimeoutError if it does not."""
    deadline = time.monotonic() + within_seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(poll_seconds)
