"""Task: a job in a line on a clock of its own, what it takes of a replica, and who has the turn there."""

from __future__ import annotations

import math

import msgspec

from ringlight.planner.scheduling import Candidate

SAME_STEP = 1e-6  # of a step: a clock that adds up seconds is not exact


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a video takes of its replica.

    It can be paused before its first step, between two, and after its last one; not within what comes before (text) or
    after (decoding). The output holds no replica.
    """

    before_seconds: float = 0.0
    num_steps: int = 0
    step_seconds: float = 0.0
    after_seconds: float = 0.0
    output_seconds: float = 0.0

    @property
    def busy_seconds(self) -> float:
        return self.before_seconds + self.num_steps * self.step_seconds + self.after_seconds

    @property
    def alone_seconds(self) -> float:
        """Seconds from arrival to end if there are no other requests."""
        return self.busy_seconds + self.output_seconds

    def boundary(self, done: float, *, after: bool = False) -> float:
        """Seconds of work at which it can be paused next, from `done` on or after it; infinite: not any more."""
        if done <= self.before_seconds and not after:
            number = 0
        elif self.step_seconds:
            steps = (done - self.before_seconds) / self.step_seconds
            number = max(0, math.floor(steps + SAME_STEP) + 1 if after else math.ceil(steps - SAME_STEP))
        else:
            return math.inf
        found = self.before_seconds + number * self.step_seconds
        return found if number <= self.num_steps and found < self.busy_seconds else math.inf


class Task(msgspec.Struct, kw_only=True, eq=False):
    """Job in the queue. `begin` and `end` are seconds of the clock, infinite until they are known."""

    job: Candidate  # as it is when it comes, its deadline from then on
    service: Service
    arrives: float = 0.0
    done: float = 0.0  # seconds of work, when its turn began
    begin: float = math.inf
    end: float = math.inf
    pauses: int = 0

    def candidate(self, now: float, done: float | None = None, used_seconds: float | None = None) -> Candidate:
        """Candidate for the order, as the job is now.

        `done` are the seconds of its work so far, if it has the turn, and `used_seconds` those of its client, if they
        have changed.
        """
        job = self.job
        return Candidate(
            key=job.key,
            arrival=job.arrival,
            priority=job.priority,
            is_last=job.is_last,
            client=job.client,
            used_seconds=job.used_seconds if used_seconds is None else used_seconds,
            rest_seconds=self.service.busy_seconds - (self.done if done is None else done),
            whole_seconds=job.whole_seconds,
            waited_seconds=job.waited_seconds + now - self.arrives,
            due_seconds=None if job.due_seconds is None else job.due_seconds - (now - self.arrives),
        )


class Station(msgspec.Struct, kw_only=True, eq=False):
    """Replica: who has the turn, since when, and whom it keeps. It takes nobody before `there_at`."""

    running: Task | None = None
    held: list[Task] = []
    began: float = 0.0
    counted: float = 0.0  # until when what runs is in the shares
    looks: bool = False  # at its next boundary
    looked: float = -math.inf  # when it did last
    turn: int = 0
    there_at: float = 0.0

    def done(self, now: float) -> float:
        assert self.running is not None
        return self.running.done + max(0.0, now - self.began)
