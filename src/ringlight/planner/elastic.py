"""Elastic: simulated replicas that come and go as the queue before them asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ringlight.core.replicas import ReplicaRange
from ringlight.planner.sizing import LOOK_SECONDS, FleetSize
from ringlight.planner.task import Station


class Elastic:
    """Stations of a simulated queue: those that are there, those that start, and their cost so far."""

    def __init__(self, asked: ReplicaRange, start_seconds: float, look_seconds: float = LOOK_SECONDS) -> None:
        """Prepare the stations.

        A replica takes `start_seconds` to start; the least of them are there at 0. There are `look_seconds` between two
        looks at the queue, beside one whenever a job comes.
        """
        self.size = FleetSize(asked)
        self.start_seconds = start_seconds
        self.stations = [Station() for _ in range(asked.least)]
        self.replica_seconds = 0.0  # until `counted`, from when each began to start
        self.counts: list[tuple[float, int]] = [(0.0, asked.least)]  # how many there were from then on
        self.look_at = 0.0
        self._look_seconds = look_seconds
        self._counted = 0.0

    def look(self, now: float, rests: Sequence[float]) -> Iterator[Station]:
        """Begin to start missing stations, and yield them; the arguments are as in FleetSize.look."""
        self.count(now)
        wanted = self.size.look(now, rests, self.start_seconds)
        while len(self.stations) < wanted:
            self.stations.append(Station(there_at=now + self.start_seconds))
            yield self.stations[-1]
        is_quiet = not rests and len(self.stations) == wanted == self.size.asked.least
        self.look_at = math.inf if is_quiet else now + self._look_seconds
        self._note(now)

    def dismiss(self, now: float) -> Station | None:
        """Choose the station that is dismissed now, if there are more than are wanted.

        It is one that has nothing to do, the newest first, and before others one that keeps nothing.
        """
        if len(self.stations) <= self.size.wanted:
            return None
        idle = [each for each in reversed(self.stations) if each.running is None]
        found = min(idle, key=lambda each: len(each.held), default=None)
        if found is not None:
            self.stations.remove(found)
            self._note(now)
        return found

    def count(self, now: float) -> None:
        """Count the current replicas up to this moment."""
        self.replica_seconds += len(self.stations) * (now - self._counted)
        self._counted = now

    def _note(self, now: float) -> None:
        if self.counts[-1][1] != len(self.stations):
            self.counts.append((now, len(self.stations)))
