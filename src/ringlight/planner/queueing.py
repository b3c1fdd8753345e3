"""Simulation of a queue before replicas: jobs that come, take turns by a policy, and are over."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from ringlight.planner.elastic import Elastic
from ringlight.planner.line import FixedLine, OpenLine
from ringlight.planner.scheduling import Policy
from ringlight.planner.shares import Shares
from ringlight.planner.task import Station, Task

Event = Literal["end", "look", "there"]


def play(
    tasks: Iterable[Task],
    stations: Sequence[Station],
    policy: Policy,
    *,
    pause_seconds: float = 0.0,
    over_share: Collection[str] = (),
    shares: Shares | None = None,
    fleet: Elastic | None = None,
) -> None:
    """Play the queue until nobody waits; the outcome of each task is written into it.

    Tasks that have come by 0 wait from the beginning, beside whom the stations have already. A station that leaves a
    job loses `pause_seconds`. Clients of `over_share` are over theirs throughout; with `shares` what is used is counted
    there, and it says who is. With a `fleet` the stations are its own, which come and go.
    """
    _Playing(tasks, stations, policy, pause_seconds, over_share, shares, fleet).run()


class _Playing:
    """State of a simulation: the clock, the queue and what is to happen."""

    def __init__(
        self,
        tasks: Iterable[Task],
        stations: Sequence[Station],
        policy: Policy,
        pause_seconds: float,
        over_share: Collection[str],
        shares: Shares | None,
        fleet: Elastic | None,
    ) -> None:
        self._policy, self._fleet = policy, fleet
        self._coming = sorted(tasks, key=lambda task: task.arrives, reverse=True)
        self._stations, self._pause_seconds = stations if fleet is None else fleet.stations, pause_seconds
        self._over_share, self._shares = over_share, shares
        own = [each for station in stations for each in (station.running, *station.held) if each is not None]
        is_dated = any(task.job.due_seconds is not None for task in [*self._coming, *own])
        changes = shares is not None or policy.max_slowdown > 0 or is_dated
        is_fixed = policy.scheduling == "arrival" or not changes
        self._line = FixedLine(policy, over_share) if is_fixed else OpenLine(policy, shares)
        self._events: list[tuple[float, int, Station, int, Event]] = []  # when, number, whose, of which turn, what
        self._idle: deque[Station] = deque()
        self._counter = itertools.count()
        self._now = 0.0

    def run(self) -> None:
        self._come()
        for station in self._stations:
            if station.running is not None:
                self._expect_end(station)
                self._look(station)
            elif station.there_at > 0:
                self._push(station.there_at, station, "there")
            else:
                self._take_next(station)
        self._resize()
        while self._events or self._coming or (self._line and self._fleet):
            coming = self._coming[-1].arrives if self._coming else math.inf
            event = self._events[0][0] if self._events else math.inf
            if self._fleet is not None and self._fleet.look_at < min(coming, event):
                self._now = self._fleet.look_at
                self._resize()
            elif event < coming:
                self._next_event()
            else:
                self._now = coming
                self._come()
                self._take_all()
                self._resize()
        if self._fleet is not None:
            self._fleet.count(self._now)

    def _take_all(self) -> None:
        """Let idle stations take waiting tasks, and busy ones look whether theirs is to be paused."""
        while self._idle and self._line:
            self._take_next(self._idle.popleft())
        if self._line:
            for station in self._stations:
                self._look(station)

    def _resize(self) -> None:
        """Adjust the number of stations to what the queue asks for."""
        if self._fleet is None:
            return
        tasks = [task.candidate(self._now) for task in self._line.tasks()]
        for station in self._stations:
            tasks += [task.candidate(self._now) for task in station.held]
            if station.running is not None:
                tasks.append(station.running.candidate(self._now, station.done(self._now)))
        for station in self._fleet.look(self._now, [e.rest_seconds for e in self._policy.ordered(tasks, self._over())]):
            self._push(station.there_at, station, "there")
        if (left := self._fleet.dismiss(self._now)) is not None:
            left.turn += 1  # if it was to be there
            if left in self._idle:
                self._idle.remove(left)
            for task in left.held:
                self._line.put(task)
            self._take_all()
        num_there = sum(station.there_at <= self._now for station in self._stations)
        self._line.count(max(1, num_there))
        if self._shares is not None:
            self._shares.count(max(1, num_there))

    def _come(self) -> None:
        """Queue all tasks that have come by now."""
        while self._coming and self._coming[-1].arrives <= self._now:
            self._line.put(self._coming.pop())

    def _take_next(self, station: Station) -> None:
        """Let an idle station take the next task, if there is one."""
        task = self._line.next(station, self._now, self._over())
        if task is None:
            self._idle.append(station)
            return
        self._line.take(task, station)
        self._give_turn(station, task, self._now)

    def _look(self, station: Station) -> None:
        """Look again at the next boundary, if another task may have the turn then."""
        if station.running is None or station.looks or not self._line.may_change(station, self._now, self._over()):
            return
        done = station.done(self._now)
        boundary = station.running.service.boundary(done, after=station.looked == self._now)
        if boundary < math.inf:
            station.looks = True
            self._push(max(self._now, station.began) + boundary - done, station, "look")

    def _next_event(self) -> None:
        self._now, _, station, turn, event = heapq.heappop(self._events)
        if turn != station.turn:
            return
        if event == "there":
            return self._take_next(station)
        if station.running is None:
            return
        self._count(station)
        if event == "end":
            station.running.end = self._now + station.running.service.output_seconds
            self._end_turn(station)
            self._take_next(station)
            return
        station.looks, station.looked = False, self._now
        newcomer = self._line.newcomer(station, self._now, self._over())
        if newcomer is None:
            self._look(station)
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
        self._look(station)

    def _end_turn(self, station: Station) -> None:
        station.running, station.looks = None, False
        station.turn += 1

    def _expect_end(self, station: Station) -> None:
        assert station.running is not None
        end = station.began + station.running.service.busy_seconds - station.running.done
        if end < math.inf:
            self._push(end, station, "end")

    def _push(self, at: float, station: Station, event: Event) -> None:
        heapq.heappush(self._events, (at, next(self._counter), station, station.turn, event))

    def _count(self, station: Station) -> None:
        """Charge the running job's client for the replica's time until now."""
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
