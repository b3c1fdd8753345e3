"""What happens next in a line before replicas: jobs that come, take turns by a policy, and are over."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterable, Sequence

import msgspec

from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.shares import Shares

SAME_STEP = 1e-6  # of a step: a clock that adds up seconds is not exact


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a video takes of its replica. It can be left before its first step, between two, and after its last
    one; not within what comes before (text) or after (decoding). The output holds no replica."""

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
        """From asking to having, where nobody else asks."""
        return self.busy_seconds + self.output_seconds

    def boundary(self, done: float, *, after: bool = False) -> float:
        """Seconds of work at which it can be left next, from `done` on or after it; infinite: not any more."""
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
    """A job in the line. `begin` and `end` are seconds of the clock, infinite until they are known."""

    job: Candidate  # as it is when it comes, its deadline from then on
    service: Service
    arrives: float = 0.0
    done: float = 0.0  # seconds of work, when its turn began
    begin: float = math.inf
    end: float = math.inf
    pauses: int = 0

    def candidate(self, now: float, done: float) -> Candidate:
        """The job as the order sees it now, with so many seconds of its work done."""
        job = self.job
        return Candidate(
            key=job.key,
            arrival=job.arrival,
            priority=job.priority,
            is_last=job.is_last,
            client=job.client,
            rest_seconds=self.service.busy_seconds - done,
            whole_seconds=job.whole_seconds,
            waited_seconds=job.waited_seconds + now - self.arrives,
            due_seconds=None if job.due_seconds is None else job.due_seconds - (now - self.arrives),
        )


class Station(msgspec.Struct, kw_only=True, eq=False):
    """A replica: who has the turn, since when, and whom it keeps."""

    running: Task | None = None
    held: list[Task] = []
    began: float = 0.0
    counted: float = 0.0  # until when what runs is in the shares
    looks: bool = False  # at its next boundary
    looked: float = -math.inf  # when it did last
    turn: int = 0

    def done(self, now: float) -> float:
        assert self.running is not None
        return self.running.done + max(0.0, now - self.began)


def play(
    tasks: Iterable[Task],
    stations: Sequence[Station],
    policy: Policy,
    *,
    pause_seconds: float = 0.0,
    over_share: Collection[str] = (),
    shares: Shares | None = None,
) -> None:
    """Play the line out until nobody waits; what becomes of each task is written into it.

    Tasks that have come by 0 wait from the beginning, beside whom the stations have already. A station that leaves a
    job loses `pause_seconds`. Clients of `over_share` are over theirs throughout; with `shares` what is used is counted
    there, and it says who is.
    """
    _Playing(tasks, stations, policy, pause_seconds, over_share, shares).run()


class _Playing:
    """The clock, the line and what is to happen."""

    def __init__(
        self,
        tasks: Iterable[Task],
        stations: Sequence[Station],
        policy: Policy,
        pause_seconds: float,
        over_share: Collection[str],
        shares: Shares | None,
    ) -> None:
        self._coming = sorted(tasks, key=lambda task: task.arrives, reverse=True)
        self._stations, self._pause_seconds = stations, pause_seconds
        self._over_share, self._shares = over_share, shares
        own = [each for station in stations for each in (station.running, *station.held) if each is not None]
        is_dated = any(task.job.due_seconds is not None for task in [*self._coming, *own])
        is_fixed = shares is None and policy.guard is None and not is_dated
        self._line = _Line(policy, over_share if is_fixed else None)
        self._events: list[tuple[float, int, Station, int, bool]] = []  # when, number, whose, of which turn, its end
        self._counter = itertools.count()
        self._now = 0.0

    def run(self) -> None:
        for station in self._stations:
            if station.running is not None:
                self._expect_end(station)
        while True:
            while self._coming and self._coming[-1].arrives <= self._now:
                self._line.put(self._coming.pop())
            self._settle()
            coming = self._coming[-1].arrives if self._coming else math.inf
            if not self._events and coming == math.inf:
                return
            if not self._events or coming <= self._events[0][0]:
                self._now = coming
            else:
                self._next_event()

    def _settle(self) -> None:
        """Idle stations take who is next; others are looked at where one may make way."""
        over = self._over()
        for station in self._stations:
            if station.running is None:
                task = self._line.next(station, self._now, over)
                if task is not None:
                    self._give_turn(station, task, self._now)
        for station in self._stations:
            if station.running is not None and not station.looks:
                self._look(station, over)

    def _look(self, station: Station, over: Collection[str]) -> None:
        """Look again at the next boundary, if somebody may have the turn then."""
        assert station.running is not None
        if self._line.is_fixed:
            may_change = self._line.newcomer(station, self._now, over) is not None
        else:
            may_change = bool(station.held) or len(self._line) > 0
        if not may_change:
            return
        done = station.done(self._now)
        boundary = station.running.service.boundary(done, after=station.looked == self._now)
        if boundary < math.inf:
            station.looks = True
            self._push(max(self._now, station.began) + boundary - done, station, is_end=False)

    def _next_event(self) -> None:
        self._now, _, station, turn, is_end = heapq.heappop(self._events)
        if turn != station.turn or station.running is None:
            return
        self._count(station)
        if is_end:
            station.running.end = self._now + station.running.service.output_seconds
            self._end_turn(station)
            return
        station.looks, station.looked = False, self._now
        over = self._over()
        newcomer = self._line.newcomer(station, self._now, over)
        if newcomer is None:
            return
        left = station.running
        left.done, left.pauses = station.done(self._now), left.pauses + 1
        self._end_turn(station)
        self._line.take(newcomer, station)
        station.held.append(left)
        self._give_turn(station, newcomer, self._now + self._pause_seconds)

    def _give_turn(self, station: Station, task: Task, at: float) -> None:
        station.running, station.began, station.counted, station.looked = task, at, at, -math.inf
        task.begin = min(task.begin, at)
        self._expect_end(station)

    def _end_turn(self, station: Station) -> None:
        station.running, station.looks = None, False
        station.turn += 1

    def _expect_end(self, station: Station) -> None:
        assert station.running is not None
        end = station.began + station.running.service.busy_seconds - station.running.done
        if end < math.inf:
            self._push(end, station, is_end=True)

    def _push(self, at: float, station: Station, *, is_end: bool) -> None:
        heapq.heappush(self._events, (at, next(self._counter), station, station.turn, is_end))

    def _count(self, station: Station) -> None:
        """What runs has used its replica until now."""
        if self._shares is not None and station.running is not None and self._now > station.counted:
            self._shares.add(station.running.job.client, self._now - station.counted, self._now)
            station.counted = self._now

    def _over(self) -> Collection[str]:
        if self._shares is None:
            return self._over_share
        present = [task.job.client for task in self._line.tasks()]
        for station in self._stations:
            present += [task.job.client for task in (station.running, *station.held) if task is not None]
        return self._shares.over(present, self._now)


class _Line:
    """Who waits. Where no place depends on the clock or on others (`over_share` is told), a heap; else all are put in
    order whenever somebody asks."""

    def __init__(self, policy: Policy, over_share: Collection[str] | None) -> None:
        self._policy, self._over_share = policy, over_share
        self._heap: list[tuple[tuple[object, ...], str]] = []
        self._waiting: dict[str, Task] = {}

    @property
    def is_fixed(self) -> bool:
        return self._over_share is not None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, task: Task) -> None:
        self._waiting[task.job.key] = task
        if self._over_share is not None:
            key = self._policy.key(task.candidate(task.arrives, task.done), self._over_share)
            heapq.heappush(self._heap, (key, task.job.key))

    def tasks(self) -> Iterable[Task]:
        return self._waiting.values()

    def take(self, task: Task, station: Station) -> None:
        """Out of the line, or of those that the station holds."""
        if self._waiting.pop(task.job.key, None) is None:
            station.held.remove(task)

    def next(self, station: Station, now: float, over: Collection[str]) -> Task | None:
        """Take who is next on an idle station."""
        waiting = self._foremost(station)
        if not waiting:
            return None
        first = self._policy.ordered([task.candidate(now, task.done) for task in waiting.values()], over)[0]
        task = waiting[first.key]
        self.take(task, station)
        return task

    def newcomer(self, station: Station, now: float, over: Collection[str]) -> Task | None:
        """For whom the one with the turn makes way."""
        waiting = self._foremost(station)
        if station.running is None or not waiting:
            return None
        running = station.running.candidate(now, station.done(now))
        found = self._policy.newcomer(running, [task.candidate(now, task.done) for task in waiting.values()], over)
        return None if found is None else waiting[found.key]

    def _foremost(self, station: Station) -> dict[str, Task]:
        """Those for whom the station may be: with fixed places only the first of the line, and who it holds."""
        held = {task.job.key: task for task in station.held}
        if not self.is_fixed:
            return self._waiting | held
        while self._heap and self._heap[0][1] not in self._waiting:
            heapq.heappop(self._heap)
        return held | ({self._heap[0][1]: self._waiting[self._heap[0][1]]} if self._heap else {})
