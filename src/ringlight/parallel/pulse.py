"""Pulse: notices within seconds that another rank is gone, stopped, or has given up, wherever this one waits."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from ringlight.core.errors import WorkerError

BEATS_PER_WATCHDOG = 10
FAILURE = "failure"


class Pulse:
    """A thread that counts in a store all ranks can read, and reads what the others count there.

    It runs while the main thread waits in a transfer that may never end: over NCCL nothing else would tell.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        size: int,
        watchdog_seconds: float,
        on_lost: Callable[[str, str, bool], None],
    ) -> None:
        """`on_lost(code, message, is_cause)` is called from the thread, at most once."""
        self._store = store
        self._rank = rank
        self._size = size
        self._watchdog_seconds = watchdog_seconds
        self._on_lost = on_lost
        self._deadline: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        store.set(_key(rank), "0")
        store.compare_set(FAILURE, "", " ")
        self._failures = self._clone()  # of its own: the main thread may be waiting in `store`

    def start(self) -> None:
        """Begin, once every rank has made its own."""
        self._thread.start()

    def stop(self) -> None:
        """The ranks part as they should: notice nothing any more."""
        self._stopped.set()
        self._thread.join()

    def expect(self, seconds: float | None) -> None:
        """The main thread says when it will have come to its next boundary at the latest; None: whenever it likes."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def confess(self, code: str, message: str) -> None:
        """Tell the others why this rank ends, so that all report the same cause. The first cause stands."""
        with contextlib.suppress(RuntimeError):  # the store is gone with rank 0
            self._failures.compare_set(FAILURE, " ", json.dumps({"rank": self._rank, "code": code, "message": message}))

    def _run(self) -> None:
        store = self._clone()
        others = [rank for rank in range(self._size) if rank != self._rank]
        seen, missed = dict.fromkeys(others, b""), dict.fromkeys(others, 0)
        beat = 0
        while not self._stopped.wait(self._watchdog_seconds / BEATS_PER_WATCHDOG):
            beat += 1
            try:
                store.set(_key(self._rank), str(beat))
                failure, *beats = store.multi_get([FAILURE, *map(_key, others)])
            except RuntimeError:  # a DistStoreError where rank 0 is gone or stopped
                return self._on_lost(WorkerError.code, "rank 0 is lost: its store does not answer", False)
            if failure.strip():
                cause = json.loads(failure)
                return self._on_lost(cause["code"], f"rank {cause['rank']}: {cause['message']}", False)
            for rank, counted in zip(others, beats, strict=True):
                # Beats are counted, not seconds: a machine that slept as a whole has lost nobody.
                missed[rank] = missed[rank] + 1 if counted == seen[rank] else 0
                seen[rank] = counted
                if missed[rank] > BEATS_PER_WATCHDOG:
                    seconds = f"{self._watchdog_seconds:g} s"
                    return self._on_lost(WorkerError.code, f"rank {rank} has not been heard of for {seconds}", True)
            if self._deadline is not None and time.monotonic() > self._deadline:
                return self._on_lost(WorkerError.code, f"rank {self._rank} waits for what does not come", False)

    def _clone(self) -> TCPStore:
        """A connection of its own to the store, which gives up after the watchdog's time."""
        store: TCPStore = self._store.clone()  # type: ignore[attr-defined]
        store.set_timeout(timedelta(seconds=self._watchdog_seconds))
        return store


def _key(rank: int) -> str:
    return f"beat/{rank}"
