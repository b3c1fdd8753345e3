"""Pulse: notices within seconds that another rank is gone, stopped, or has given up, wherever this one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import msgspec
from torch._C._distributed_c10d import TCPStore

from ringlight.core.errors import WorkerError
from ringlight.core.plain import plain
from ringlight.parallel.roster import Roster

BEATS_PER_WATCHDOG = 10
CONFESSION_SECONDS = 1.0
SILENT_BEATS = 3  # without a sign of life, where something else says already that somebody is lost
FAILURE = "failure"
STORE = "the store"
GONE = "no longer answers"


class Loss(msgspec.Struct, frozen=True):
    """Reason why a group ends, and the rank that caused it; None if unknown."""

    rank: int | None
    code: str
    message: str


class Pulse:
    """Heartbeats of a group in two threads.

    One counts in a store that rank 0 keeps, and reads what the others count there; one judges.

    They run while the main thread waits in a transfer that may never end: over NCCL nothing else would tell. The one
    that talks may itself wait without end, for a store does not answer while rank 0 is stopped.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        roster: Roster,
        watchdog_seconds: float,
        on_lost: Callable[[Loss, bool], None],
    ) -> None:
        """Prepare the threads. `on_lost(loss, is_cause)` is called from a thread, at most once."""
        self._store: TCPStore = store.clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=watchdog_seconds))
        self._rank = rank
        self._roster = roster
        self._others = [other for other in range(len(roster.addresses)) if other != rank]
        self._watchdog_seconds = watchdog_seconds
        self._on_lost = on_lost
        self._deadline: float | None = None
        self._heard: dict[str, bytes] = {}  # the last counts of others, and how often the store has answered
        self._failure = b""
        self._store_is_gone = False
        self._confession = ""
        self._confessed, self._wake, self._stopped = (threading.Event() for _ in range(3))
        self._threads = [threading.Thread(target=work, name="pulse", daemon=True) for work in (self._talk, self._judge)]
        store.set(beat_key(rank), "0")
        store.compare_set(FAILURE, "", " ")

    def start(self) -> None:
        """Start the threads, once all ranks have met; each is to start them within the watchdog's time."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching, because the ranks part as ordered."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(self._watchdog_seconds)

    def expect(self, seconds: float | None) -> None:
        """Announce when the main thread will reach its next boundary at the latest; None: at any time."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def confess(self, code: str, message: str) -> None:
        """Tell the others why this rank ends, so that all report the same cause. The first cause stands."""
        self._confession = msgspec.json.encode(Loss(self._rank, code, message)).decode()
        self._wake.set()
        self._confessed.wait(self._watchdog_seconds)  # in vain where rank 0 is lost, which the others notice too

    def hear_cause(self) -> Loss:
        """Find the first cause after another rank was lost: what a rank confesses soon, else who is silent."""
        before = self._heard
        silent = self._await_silence()
        if cause := self._cause():
            return cause
        if self._store_is_gone or self._heard is before:  # rank 0 keeps it
            return self._lost(0, GONE)
        if silent is None:
            unknown = f"rank {self._rank} lost the connection to another rank, and all are there: see to their network"
            return Loss(None, WorkerError.code, unknown)
        return self._lost(silent, GONE)

    def _await_silence(self) -> int | None:
        """Wait for the rank that is silent for the longest, once that is some beats; None if none is.

        What is heard first may be the last beat of a rank that is gone by now, so each one begins the count anew.
        Returns early where a rank confesses, or the store is gone.
        """
        patience = SILENT_BEATS * self._watchdog_seconds / BEATS_PER_WATCHDOG
        patience = max(patience, min(CONFESSION_SECONDS, self._watchdog_seconds))
        began = time.monotonic()
        seen, heard_at = self._heard, dict.fromkeys(self._others, began)
        while not self._failure.strip() and not self._store_is_gone:
            self._wake.set()
            time.sleep(0.02)
            now, heard = time.monotonic(), self._heard
            heard_at |= {rank: now for rank in self._others if heard.get(beat_key(rank)) != seen.get(beat_key(rank))}
            seen = heard
            longest = min(self._others, key=lambda rank: heard_at[rank])
            if now - heard_at[longest] > patience:
                return longest
            if now - began > 3 * patience:
                break
        return None

    def _cause(self) -> Loss | None:
        if not self._failure.strip():
            return None
        cause = msgspec.json.decode(self._failure, type=Loss)
        return msgspec.structs.replace(cause, message=f"rank {cause.rank}: {cause.message}")

    def _lost(self, rank: int, why: str) -> Loss:
        return Loss(rank, WorkerError.code, self._roster.lost(rank, why))

    def _talk(self) -> None:
        keys = [FAILURE, *map(beat_key, self._others)]
        rounds = 0
        try:
            while not self._stopped.is_set():
                rounds += 1
                self._store.set(beat_key(self._rank), str(rounds))
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
        missed = dict.fromkeys([STORE, *map(beat_key, self._others)], 0)
        while not self._stopped.wait(self._watchdog_seconds / BEATS_PER_WATCHDOG):
            heard = self._heard
            for name in missed:
                # Beats are counted, not seconds: a machine that slept as a whole has lost nobody.
                missed[name] = missed[name] + 1 if heard.get(name) == seen.get(name) else 0
            seen = heard
            silent = [name for name, number in missed.items() if number > BEATS_PER_WATCHDOG]
            if found := self._judgement(silent):
                loss, is_cause = found
                if is_cause:
                    self.confess(loss.code, loss.message)
                return self._on_lost(loss, is_cause)

    def _judgement(self, silent: list[str]) -> tuple[Loss, bool] | None:
        """Verdict for `on_lost`, given the ranks that are silent for the watchdog's time; None if all is well."""
        if self._confession:  # this rank leaves by itself
            return None
        if cause := self._cause():
            return cause, False
        unheard = f"has not been heard of for {plain(self._watchdog_seconds)} s"
        if self._store_is_gone:
            return self._lost(0, GONE), False
        if STORE in silent:
            self._confessed.set()  # it cannot be told to anybody
            return self._lost(0, unheard), True
        for other in self._others:
            if beat_key(other) in silent:
                return self._lost(other, unheard), True
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Loss(None, WorkerError.code, f"rank {self._rank} waits for what does not come"), False
        return None


def beat_key(rank: int) -> str:
    """Key of the store under which a rank's beats are counted."""
    return f"beat/{rank}"
