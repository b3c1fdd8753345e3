"""Queues before stations: as a heap if places do not change, else sorted when asked who is next."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

import msgspec

from ringlight.planner.scheduling import Candidate, Key, Policy
from ringlight.planner.shares import Shares
from ringlight.planner.task import Station, Task


class OpenLine:
    """Queue whose order depends on the clock and on who else is there: it is sorted at each look."""

    is_fixed = False

    def __init__(self, policy: Policy, shares: Shares | None = None) -> None:
        self._policy, self._shares = policy, shares
        self._waiting: dict[str, Task] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def tasks(self) -> Iterable[Task]:
        return self._waiting.values()

    def put(self, task: Task) -> None:
        self._waiting[task.job.key] = task

    def count(self, num_replicas: int) -> None:
        """Set the number of replicas."""
        self._policy = msgspec.structs.replace(self._policy, num_replicas=num_replicas)

    def take(self, task: Task, station: Station) -> None:
        """Take a task out of the queue, or of those that the station holds."""
        if self._waiting.pop(task.job.key, None) is None:
            station.held.remove(task)

    def next(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find the next task for an idle station."""
        waiting = self._for(station)
        if not waiting:
            return None
        return waiting[self._policy.first([self._seen(task, now) for task in waiting.values()], over_share).key]

    def newcomer(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find the task for which the one that has the turn is paused."""
        assert station.running is not None
        running, waiting = self._seen(station.running, now, station.done(now)), self._for(station)
        found = self._policy.newcomer(running, [self._seen(task, now) for task in waiting.values()], over_share)
        return None if found is None else waiting[found.key]

    def may_change(self, station: Station, now: float, over_share: Collection[str]) -> bool:
        """Whether it is worth a look at the station's next boundary."""
        return bool(self._waiting or station.held)

    def _seen(self, task: Task, now: float, done: float | None = None) -> Candidate:
        return task.candidate(now, done, 0.0 if self._shares is None else self._shares.used(task.job.client))

    def _for(self, station: Station) -> dict[str, Task]:
        return self._waiting | {task.job.key: task for task in station.held}


class FixedLine:
    """Queue whose order changes only with turns, as a heap; clients of `over_share` are over theirs throughout."""

    is_fixed = True

    def __init__(self, policy: Policy, over_share: Collection[str]) -> None:
        self._policy, self._over_share = policy, over_share
        self._heap: list[tuple[Key, Task]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def tasks(self) -> Iterable[Task]:
        return (task for _, task in self._heap)

    def put(self, task: Task) -> None:
        heapq.heappush(self._heap, self._entry(task))

    def count(self, num_replicas: int) -> None:
        """Ignore the number of replicas: the order does not depend on it."""

    def take(self, task: Task, station: Station) -> None:
        """Take a task out of the queue, whose first it is, or of those that the station holds."""
        if self._heap and self._heap[0][1] is task:
            heapq.heappop(self._heap)
        else:
            station.held.remove(task)

    def next(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find the next task for an idle station."""
        return min(self._for(station), default=(None, None))[1]

    def newcomer(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find the task for which the one that has the turn is paused."""
        assert station.running is not None
        waiting = self._for(station)
        if not waiting:
            return None
        running = station.running.candidate(now, station.done(now))
        place = self._policy.key(running, self._over_share)
        before = {task.job.key: task for key, task in waiting if key < place}
        if not before:
            return None
        found = self._policy.newcomer(running, [task.candidate(now) for task in before.values()], self._over_share)
        return None if found is None else before[found.key]

    def may_change(self, station: Station, now: float, over_share: Collection[str]) -> bool:
        """Whether it is worth a look at the station's next boundary: what is not paused now will not be then."""
        return self.newcomer(station, now, over_share) is not None

    def _for(self, station: Station) -> list[tuple[Key, Task]]:
        return [*self._heap[:1], *map(self._entry, station.held)]

    def _entry(self, task: Task) -> tuple[Key, Task]:
        return self._policy.key(task.candidate(task.arrives), self._over_share), task
