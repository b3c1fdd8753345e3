"""Pulse: notices within seconds that another rank is gone, stopped, or has given up, wherever this one waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from ringlight.core.errors import WorkerError
from ringlight.core.plain import plain

BEATS_PER_WATCHDOG = 10
CONFESSION_SECONDS = 1.0
FAILURE = "failure"
STORE = "the store"


class Pulse:
    """Two threads: one counts in a store that rank 0 keeps, and reads what the others count there; one judges.

    They run while the main thread waits in a transfer that may never end: over NCCL nothing else would tell. The one
    that talks may itself wait without end, for a store does not answer while rank 0 is stopped.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        size: int,
        watchdog_seconds: float,
        on_lost: Callable[[str, str, bool], None],
    ) -> None:
        """`on_lost(code, message, is_cause)` is called from a thread, at most once."""
        self._store: TCPStore = store.clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=watchdog_seconds))
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._watchdog_seconds = watchdog_seconds
        self._on_lost = on_lost
        self._deadline: float | None = None
        self._heard: dict[str, bytes] = {}  # the last counts of others, and how often the store has answered
        self._failure = b""
        self._store_is_gone = False
        self._confession = ""
        self._confessed, self._wake, self._stopped = (threading.Event() for _ in range(3))
        self._threads = [threading.Thread(target=work, name="pulse", daemon=True) for work in (self._talk, self._judge)]
        store.set(_key(rank), "0")
        store.compare_set(FAILURE, "", " ")

    def start(self) -> None:
        """Begin, once every rank has made its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The ranks part as they should: notice nothing any more."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(self._watchdog_seconds)

    def expect(self, seconds: float | None) -> None:
        """The main thread says when it will have come to its next boundary at the latest; None: whenever it likes."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def confess(self, code: str, message: str) -> None:
        """Tell the others why this rank ends, so that all report the same cause. The first cause stands."""
        self._confession = json.dumps({"rank": self._rank, "code": code, "message": message})
        self._wake.set()
        self._confessed.wait(self._watchdog_seconds)  # in vain where rank 0 is lost, which the others notice too

    def hear_confession(self) -> tuple[str, str] | None:
        """(code, message) of the rank that began it, if one says so soon; for a rank that has just lost another."""
        deadline = time.monotonic() + min(CONFESSION_SECONDS, self._watchdog_seconds)
        while not self._failure.strip() and not self._store_is_gone and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.02)
        return self._cause()

    def _cause(self) -> tuple[str, str] | None:
        if not self._failure.strip():
            return None
        cause = json.loads(self._failure)
        return cause["code"], f"rank {cause['rank']}: {cause['message']}"

    def _talk(self) -> None:
        keys = [FAILURE, *map(_key, self._others)]
        rounds = 0
        try:
            while not self._stopped.is_set():
                rounds += 1
                self._store.set(_key(self._rank), str(rounds))
                if self._confession:
                    self._store.compare_set(FAILURE, " ", self._confession)
                    self._confessed.set()
                self._failure, *beats = self._store.multi_get(keys)
                self._heard = {STORE: b"%d" % rounds} | dict(zip(keys[1:], beats, strict=True))
                self._wake.wait(self._watchdog_seconds / BEATS_PER_WATCHDOG)
                self._wake.clear()
        except RuntimeError:  # a DistStoreError: rank 0 is gone
            self._store_is_gone = True
            self._confessed.set()

    def _judge(self) -> None:
        seen: dict[str, bytes] = {}
        missed = dict.fromkeys([STORE, *map(_key, self._others)], 0)
        while not self._stopped.wait(self._watchdog_seconds / BEATS_PER_WATCHDOG):
            heard = self._heard
            for name in missed:
                # Beats are counted, not seconds: a machine that slept as a whole has lost nobody.
                missed[name] = missed[name] + 1 if heard.get(name) == seen.get(name) else 0
            seen = heard
            silent = [name for name, number in missed.items() if number > BEATS_PER_WATCHDOG]
            if loss := self._loss(silent):
                return self._on_lost(*loss)

    def _loss(self, silent: list[str]) -> tuple[str, str, bool] | None:
        """What `on_lost` is to hear, given who has not been heard of for the watchdog's time; None if all is well."""
        if self._confession:  # this rank leaves by itself
            return None
        if cause := self._cause():
            return *cause, False
        unheard = f"has not been heard of for {plain(self._watchdog_seconds)} s"
        if self._store_is_gone:
            return WorkerError.code, "rank 0 is lost: its store has closed", False
        if STORE in silent:
            self._confessed.set()  # it cannot be told to anybody
            return WorkerError.code, f"rank 0 {unheard}", True
        for other in self._others:
            if _key(other) in silent:
                return WorkerError.code, f"rank {other} {unheard}", True
        if self._deadline is not None and time.monotonic() > self._deadline:
            return WorkerError.code, f"rank {self._rank} waits for what does not come", False
        return None


def _key(rank: int) -> str:
    return f"beat/{rank}"
