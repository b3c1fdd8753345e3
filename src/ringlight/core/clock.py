"""Clock: wall and monotonic time, passed as an argument to code that needs it."""

from __future__ import annotations

import time


class Clock:
    """Wall clock, which may be set at any moment, and monotonic clock.

    What is told to people, and what outlives a process, is of the wall. How long something took, or may take, is
    measured by the other one.
    """

    def wall(self) -> float:
        """Seconds since 1970, as far as this machine knows."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment. They count evenly, except while the machine sleeps."""
        return time.monotonic()
