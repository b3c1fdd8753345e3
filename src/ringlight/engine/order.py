"""JobOrder: which job comes before which, as the policy sees them at this moment."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import msgspec

from ringlight.core.clock import Clock
from ringlight.core.lora import Lora
from ringlight.engine.jobs import Job
from ringlight.engine.pace import Pace
from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.shares import Shares

QUARANTINE_DEATHS = 2
MOST_OVERTAKEN = 4  # times, by jobs that came later and need no other LoRAs
ALIKE = 0.8  # of two rests the shorter to the longer one, from which neither goes before the other for that


class JobOrder:
    """Order of jobs by a policy: by their pace here, the clock and what their clients have used.

    Whoever uses it sees to it that only one thread does at a time.
    """

    def __init__(self, policy: Policy, pace: Pace, clock: Clock) -> None:
        self._policy = policy
        self._pace = pace
        self._clock = clock
        self._shares = Shares(policy.num_replicas)

    @property
    def policy(self) -> Policy:
        """Policy by which jobs are ordered, for the counted number of replicas."""
        return self._policy

    def count(self, num_replicas: int) -> None:
        """Set the number of replicas."""
        self._policy = msgspec.structs.replace(self._policy, num_replicas=num_replicas)
        self._shares.count(num_replicas)

    def now(self) -> float:
        """Current time on the clock that shares are measured by."""
        return self._clock.monotonic()

    def charge(self, job: Job, seconds: float) -> None:
        """Charge the client of a job for a replica's time."""
        self._shares.add(job.submission.client, seconds, self.now())

    def candidate(self, job: Job) -> Candidate:
        """Job in the queue as the policy sees it."""
        assert job.arrival is not None, "it has been put there"
        now, rest, whole = self.now(), self._pace.rest_seconds(job), self._pace.whole(job)
        return Candidate(
            key=job.id,
            arrival=job.arrival,
            priority=job.submission.priority,
            is_last=job.state.deaths >= QUARANTINE_DEATHS,
            client=job.submission.client,
            used_seconds=self._shares.used(job.submission.client),
            rest_seconds=math.inf if rest is None else rest,
            whole_seconds=math.inf if whole is None else whole.total_seconds,
            waited_seconds=now - job.came_at,
            due_seconds=None if job.deadline is None else job.deadline.at - now,
        )

    def late_seconds(self, job: Job) -> float:
        """Seconds that a job takes longer by its own steps than by the common measure; negative if it takes less."""
        rest, remaining = self._pace.rest_seconds(job), self._pace.remaining_seconds(job)
        return 0.0 if rest is None or remaining is None else remaining - rest

    def over_share(self, jobs: Iterable[Job]) -> Collection[str]:
        """Clients that have used more than their share, among all who have one of these jobs."""
        return self._shares.over({job.submission.client for job in jobs}, self.now())

    def ordered(self, jobs: Iterable[Job], over_share: Collection[str]) -> list[Job]:
        """Sort jobs, the next one first."""
        by_key = {job.id: job for job in jobs}
        candidates = [self.candidate(job) for job in by_key.values()]
        return [by_key[each.key] for each in self._policy.ordered(candidates, over_share)]

    def newcomer(self, running: Job, waiting: Sequence[Job], over_share: Collection[str]) -> Job | None:
        """Waiting job for which a running one is paused now; None if it goes on."""
        own, candidates = self.candidate(running), [self.candidate(job) for job in waiting]
        found = self._policy.newcomer(own, candidates, over_share)
        return None if found is None else next(job for job in waiting if job.id == found.key)

    def why(self, running: Job, newcomer: Job) -> str:
        """Reason why a running job is paused for another one, as the end of a sentence."""
        one, two = self.candidate(running), self.candidate(newcomer)
        if two.priority > one.priority:
            return f"{two.key}, of higher priority"
        if two.client != one.client and two.rest_seconds >= one.rest_seconds:
            return f"{two.key}, of a client that has used less"
        return f"{two.key}, which needs {two.rest_seconds:.1f} s where it needs {one.rest_seconds:.1f} s more"

    def next(self, jobs: Iterable[Job], loras: tuple[Lora, ...], over_share: Collection[str]) -> Sequence[Job]:
        """Job that a replica with these LoRAs takes next, and those that it overtakes.

        Changing LoRAs takes time, so jobs with the same ones go first. None is overtaken more than MOST_OVERTAKEN times
        for that.
        """
        ordered = self.ordered(jobs, over_share)
        head = ordered[0]
        for number, job in enumerate(ordered):
            if job is not head and not self._are_alike(head, job, over_share):
                break
            if job.request.lora == loras:
                return [job, *ordered[:number]]
            if job.overtaken >= MOST_OVERTAKEN:
                break
        return [head]

    def waits_longer_than_to_begin_anew(self, kept: Job, running: Job) -> bool:
        """Whether a job that waits for another's end would be over sooner elsewhere, resumed from saved state.

        There all but its denoising is done once more at most.
        """
        whole, rest = self._pace.whole(kept), self._pace.rest_seconds(running)
        return whole is not None and rest is not None and rest > whole.other_seconds

    def _are_alike(self, head: Job, other: Job, over_share: Collection[str]) -> bool:
        """Whether the policy has no strong reason to take one job before the other, and none is late for it."""
        one, two = self.candidate(head), self.candidate(other)
        if self._policy.scheduling == "shortest":
            if (one.client in over_share) != (two.client in over_share):
                return False
            shorter, longer = sorted((one.rest_seconds, two.rest_seconds))
            if shorter != longer and shorter < ALIKE * longer:
                return False
            if one.due_seconds is not None and one.due_seconds < one.rest_seconds + two.rest_seconds:
                return False
        return (one.is_last, one.priority) == (two.is_last, two.priority)
