"""JobQueue: the jobs that wait, in the order in which replicas take them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from ringlight.core.lora import Lora
from ringlight.engine.jobs import Job

QUARANTINE_DEATHS = 2
MOST_OVERTAKEN = 4  # times, by jobs that came later and need no other LoRAs


class JobQueue:
    """By priority, then by arrival; last come jobs whose workers have died twice, so that the others go on.

    Among equals a job goes before others whose LoRAs are those that a replica has: to change them takes time. None is
    overtaken more than MOST_OVERTAKEN times for that. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Job] = {}
        self._counter = itertools.count()
        self._changed = threading.Condition()
        self._paused = self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: Job) -> None:
        """Let a job wait; one that comes back has the place that it had."""
        with self._changed:
            if job.arrival is None:
                job.arrival = next(self._counter)
            self._waiting[job.id] = job
            self._changed.notify()

    def take(self, timeout_seconds: float, loras: tuple[Lora, ...] = ()) -> Job | None:
        """The next job for a replica that has these LoRAs; it does not wait any more. None if there is none in that
        time, or none is to be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._waiting and not self._paused), timeout_seconds)
            if self._paused or not self._waiting:
                return None
            job, *passed = _next(self._ordered(), loras)
            for each in passed:
                each.overtaken += 1
            del self._waiting[job.id]
            return job

    def remove(self, job: Job) -> bool:
        """Take a job out; False if it does not wait here."""
        with self._changed:
            return self._waiting.pop(job.id, None) is not None

    def jobs(self) -> list[Job]:
        """All that wait, the next one first, whichever LoRAs replicas have."""
        with self._changed:
            return self._ordered()

    def pause(self) -> None:
        """No job is taken any more."""
        with self._changed:
            self._paused = True

    def close(self) -> None:
        """No job is taken any more, and nobody waits for one."""
        with self._changed:
            self._paused = self._closed = True
            self._changed.notify_all()

    def _ordered(self) -> list[Job]:
        return sorted(self._waiting.values(), key=_place)


def _place(job: Job) -> tuple[bool, int, int]:
    assert job.arrival is not None, "it was put here"
    return job.state.deaths >= QUARANTINE_DEATHS, -job.submission.priority, job.arrival


def _next(ordered: Sequence[Job], loras: tuple[Lora, ...]) -> Sequence[Job]:
    """The job that a replica with these LoRAs takes, and those that it overtakes."""
    head = ordered[0]
    for number, job in enumerate(ordered):
        if _place(job)[:2] != _place(head)[:2]:
            break
        if job.request.lora == loras:
            return [job, *ordered[:number]]
        if job.overtaken >= MOST_OVERTAKEN:
            break
    return [head]
