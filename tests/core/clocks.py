"""A clock for tests, which goes on and is set only as they say."""

from __future__ import annotations

from ringlight.core.clock import Clock


class SetClock(Clock):
    """Stands still; `goes_on` is time that passes, `is_set` is somebody who sets the wall clock."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        self._wall, self._monotonic = wall, 1000.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def goes_on(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def is_set(self, seconds: float) -> None:
        """By so many seconds, forward or back."""
        self._wall += seconds
