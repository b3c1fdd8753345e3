"""OpenJobs: the jobs that an engine has taken in and that are not over, and what those that are had of pauses."""

from __future__ import annotations

import threading
from collections.abc import Collection

from ringlight.engine.job_state import Pauses
from ringlight.engine.jobs import Job


class OpenJobs:
    """Jobs by their ids, from when they have a place until they are over. Safe to use from any thread."""

    def __init__(self, changed: threading.Condition) -> None:
        """`changed` guards them, and is notified when one is over."""
        self._changed = changed
        self._jobs: dict[str, Job] = {}
        self._before_queue: set[str] = set()
        self._earlier_pauses = Pauses()  # of those that are over

    @property
    def num_counted(self) -> int:
        """Number of jobs that take up room in the queue."""
        with self._changed:
            return sum(each.submission.counted and not each.state.is_computed for each in self._jobs.values())

    @property
    def num_paused(self) -> int:
        """Number of jobs that are paused and wait for their next turn."""
        with self._changed:
            return sum(job.is_paused for job in self._jobs.values())

    @property
    def pauses(self) -> Pauses:
        """Pauses of all jobs together, finished ones included."""
        with self._changed:
            return sum((job.pauses_here for job in self._jobs.values()), self._earlier_pauses)

    def admit(self, job: Job) -> None:
        """Give a job a place. It is not in the queue yet."""
        with self._changed:
            self._jobs[job.id] = job
            self._before_queue.add(job.id)

    def note_queued(self, job: Job) -> None:
        """Note that a job is in the queue, or will never be."""
        with self._changed:
            self._before_queue.discard(job.id)

    def forget(self, job: Job) -> None:
        """Forget a job that is over, or was never accepted."""
        with self._changed:
            if self._jobs.pop(job.id, None) is not None:
                self._earlier_pauses += job.pauses_here
            self._before_queue.discard(job.id)
            self._changed.notify_all()

    def abandon(self) -> None:
        """Leave all as they stand: another process will continue them."""
        for job in self.jobs():
            job.abandon()

    def jobs(self) -> list[Job]:
        """Jobs at this moment."""
        with self._changed:
            return list(self._jobs.values())

    def any_written_by(self, replica: str) -> bool:
        """Whether the output of a job that this replica has computed is being written."""
        return any(job.state.replica == replica and job.state.is_computed for job in self.jobs())

    def any_beside(self, waiting: Collection[str]) -> bool:
        """Whether there are jobs beside those with these ids, and those that are not in the queue yet."""
        with self._changed:
            return bool(self._jobs.keys() - waiting - self._before_queue)
