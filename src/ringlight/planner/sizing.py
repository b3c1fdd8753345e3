"""Sizing: how many replicas a queue needs. More at once if a job would wait long, fewer if none was needed for long."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence

from ringlight.core.replicas import ReplicaRange

LOOK_SECONDS = 1.0  # between two looks at a line, beside one whenever somebody comes
START_SECONDS = 60.0  # that a replica takes to start: assumed until one has


class FleetSize:
    """Number of replicas to have, from one look at the queue to the next. It has no clock of its own."""

    def __init__(self, asked: ReplicaRange) -> None:
        self.asked = asked
        self.wanted = asked.least
        self._needed_at = [-math.inf] * asked.most  # when there was work for so many at last

    def look(self, now: float, rests: Sequence[float], start_seconds: float | None) -> int:
        """Decide the number of replicas for jobs that need these seconds each, in the order of their turns.

        As many as it takes that nobody waits longer than a new replica takes to start (`start_seconds` as they were
        measured), or than was asked for; and those that were needed within the time that one may be idle.
        """
        patience = self.asked.scale_up_wait or (START_SECONDS if start_seconds is None else start_seconds)
        for number in range(needed(rests, self.asked.most, patience)):
            self._needed_at[number] = now
        kept = sum(now - at < self.asked.scale_down_idle or at == now for at in self._needed_at)
        self.wanted = max(self.asked.least, kept)
        return self.wanted


def needed(rests: Sequence[float], most: int, patience_seconds: float) -> int:
    """Smallest number of replicas, at most `most`, with which no job waits longer for its turn than the patience.

    A running job that a shorter one interrupts waits too.
    """
    enough = min(most, len(rests))
    return bisect_left(range(enough), True, key=lambda n: longest_wait(rests, n) <= patience_seconds)


def longest_wait(rests: Sequence[float], num_replicas: int) -> float:
    """Seconds until the last of these jobs has begun, if each free replica takes the next one."""
    if num_replicas >= len(rests):
        return 0.0
    if not num_replicas:
        return math.inf
    ends = [0.0] * num_replicas
    for rest in rests[:-1]:
        heapq.heapreplace(ends, ends[0] + rest)
    return ends[0]
