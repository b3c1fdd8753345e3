"""Who waits before stations, and who is next: as a heap where places do not change, else put in order when asked."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

import msgspec

from ringlight.planner.scheduling import Key, Policy
from ringlight.planner.task import Station, Task


class OpenLine:
    """Places depend on the clock and on who else is there: all are put in order whenever somebody asks."""

    is_fixed = False

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._waiting: dict[str, Task] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def tasks(self) -> Iterable[Task]:
        return self._waiting.values()

    def put(self, task: Task) -> None:
        self._waiting[task.job.key] = task

    def count(self, num_replicas: int) -> None:
        """From now on there are so many."""
        self._policy = msgspec.structs.replace(self._policy, num_replicas=num_replicas)

    def take(self, task: Task, station: Station) -> None:
        """Out of the line, or of those that the station holds."""
        if self._waiting.pop(task.job.key, None) is None:
            station.held.remove(task)

    def next(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find who is next on an idle station."""
        waiting = self._for(station)
        if not waiting:
            return None
        return waiting[self._policy.ordered([task.candidate(now) for task in waiting.values()], over_share)[0].key]

    def newcomer(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find for whom the one that has the turn makes way."""
        assert station.running is not None
        running, waiting = station.running.candidate(now, station.done(now)), self._for(station)
        found = self._policy.newcomer(running, [task.candidate(now) for task in waiting.values()], over_share)
        return None if found is None else waiting[found.key]

    def may_change(self, station: Station, now: float, over_share: Collection[str]) -> bool:
        """Whether it is worth a look at the station's next boundary."""
        return bool(self._waiting or station.held)

    def _for(self, station: Station) -> dict[str, Task]:
        return self._waiting | {task.job.key: task for task in station.held}


class FixedLine:
    """Places change only with turns, and clients of `over_share` are over theirs throughout: a heap."""

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
        """Places do not depend on how many there are."""

    def take(self, task: Task, station: Station) -> None:
        """Out of the line, whose first it is, or of those that the station holds."""
        if self._heap and self._heap[0][1] is task:
            heapq.heappop(self._heap)
        else:
            station.held.remove(task)

    def next(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find who is next on an idle station."""
        return min(self._for(station), default=(None, None))[1]

    def newcomer(self, station: Station, now: float, over_share: Collection[str]) -> Task | None:
        """Find for whom the one that has the turn makes way."""
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
        """Whether it is worth a look at the station's next boundary: what does not make way now will not then."""
        return self.newcomer(station, now, over_share) is not None

    def _for(self, station: Station) -> list[tuple[Key, Task]]:
        return [*self._heap[:1], *map(self._entry, station.held)]

    def _entry(self, task: Task) -> tuple[Key, Task]:
        return self._policy.key(task.candidate(task.arrives), self._over_share), task
