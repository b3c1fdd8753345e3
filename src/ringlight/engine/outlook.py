"""Outlook: where jobs stand in the line of an engine, and when they are expected to be over."""

from __future__ import annotations

import math
import threading
import time

from ringlight.engine.jobs import Job
from ringlight.engine.pace import Pace
from ringlight.engine.queue import JobQueue
from ringlight.planner.forecast import Forecast, forecast

FRESH_SECONDS = 0.25  # for which what is expected of a line counts, if that has not changed
TIMES_AS_LONG = 10  # as it kept a core busy it counts at least: with long lines and deadlines that is a second
UNKNOWN_SECONDS = 10.0  # until a place is free, where nothing is known


class Outlook:
    """Expected course of the queue, if no job is added. Safe to use from any thread."""

    def __init__(self, queue: JobQueue, pace: Pace) -> None:
        self._queue = queue
        self._pace = pace
        self._lock = threading.Lock()
        self._found: dict[str, Forecast] = {}
        self._version = -1
        self._found_at = -math.inf
        self._busy_seconds = 0.0

    def position(self, job: Job) -> int | None:
        """Position of a job among those that wait, paused ones included, counted from 1.

        It is 0 while the job has a turn and after its last one, None when it is over.
        """
        if job.state.is_over:
            return None
        if (found := self._now().get(job.id)) is not None:
            return found.position
        waiting = self._queue.jobs()  # it came after that was found
        return waiting.index(job) + 1 if job in waiting else 0

    def eta_seconds(self, job: Job) -> float | None:
        """Seconds until a job is expected to be over, with those of jobs before it; None while unknown."""
        if job.state.is_over:
            return None
        found, remaining = self._now().get(job.id), self._pace.remaining_seconds(job)
        if found is None or (found.position == 0 and remaining is not None):
            return remaining
        end, rest = _known(found.end_seconds), self._pace.rest_seconds(job)
        if end is None or remaining is None or rest is None:
            return end
        return max(remaining, end - rest + remaining)  # what is before it, and its own rest by its own steps

    def seconds_until_free(self) -> float:
        """Seconds until the first job is over, at least 1."""
        ends = [seconds for each in self._now().values() if (seconds := _known(each.end_seconds)) is not None]
        return max(1.0, min(ends, default=UNKNOWN_SECONDS))

    def _now(self) -> dict[str, Forecast]:
        with self._lock:
            age, version = time.monotonic() - self._found_at, self._queue.version
            is_old = age > FRESH_SECONDS or version != self._version
            if is_old and age > TIMES_AS_LONG * self._busy_seconds:
                began, line = time.thread_time(), self._queue.seen()
                self._found = forecast(line.policy, line.replicas, line.waiting, line.over_share)
                self._version, self._found_at = version, time.monotonic()
                self._busy_seconds = time.thread_time() - began
            return self._found


def _known(seconds: float | None) -> float | None:
    return None if seconds is None or seconds == math.inf else seconds
