"""Elastic: replicas that come and go on a clock of its own, as a line before them asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ringlight.core.replicas import ReplicaRange
from ringlight.planner.sizing import LOOK_SECONDS, FleetSize
from ringlight.planner.task import Station


class Elastic:
    """The stations of a line that is played: those that are there, those that start, and what all have cost."""

    def __init__(self, asked: ReplicaRange, start_seconds: float, look_seconds: float = LOOK_SECONDS) -> None:
        """A replica takes `start_seconds` to start; the least of them are there at 0. There are `look_seconds` between
        two looks at the line, beside one whenever somebody comes."""
        self.size = FleetSize(asked)
        self.start_seconds = start_seconds
        self.stations = [Station() for _ in range(asked.least)]
        self.replica_seconds = 0.0  # until `counted`, from when each began to start
        self.counts: list[tuple[float, int]] = [(0.0, asked.least)]  # how many there were from then on
        self.look_at = 0.0
        self._look_seconds = look_seconds
        self._counted = 0.0

    def look(self, now: float, rests: Sequence[float]) -> Iterator[Station]:
        """Begin to start as many as are wanted more; the line as in FleetSize.look. They are among the stations."""
        self.count(now)
        wanted = self.size.look(now, rests, self.start_seconds)
        while len(self.stations) < wanted:
            self.stations.append(Station(there_at=now + self.start_seconds))
            yield self.stations[-1]
        is_quiet = not rests and len(self.stations) == wanted == self.size.asked.least
        self.look_at = math.inf if is_quiet else now + self._look_seconds
        self._note(now)

    def dismiss(self, now: float) -> Station | None:
        """The one that goes now, if there are more than are wanted: one that has nothing to do, the newest first, and
        before others one that keeps nothing."""
        if len(self.stations) <= self.size.wanted:
            return None
        idle = [each for each in reversed(self.stations) if each.running is None]
        found = min(idle, key=lambda each: len(each.held), default=None)
        if found is not None:
            self.stations.remove(found)
            self._note(now)
        return found

    def count(self, now: float) -> None:
        """Until now there were as many as there are."""
        self.replica_seconds += len(self.stations) * (now - self._counted)
        self._counted = now

    def _note(self, now: float) -> None:
        if self.counts[-1][1] != len(self.stations):
            self.counts.append((now, len(self.stations)))
