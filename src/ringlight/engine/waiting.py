"""Waiting: what a start waits for beside loading, said to whoever asks, and to the log at once and now and then."""

from __future__ import annotations

import logging
import time

import msgspec

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0  # between two lines that say the same


class Awaited(msgspec.Struct, frozen=True):
    """Condition that is waited for: `what`, during `seconds`; `remark` adds facts such as who was refused."""

    what: str
    remark: str
    seconds: float

    def __str__(self) -> str:
        return f"waiting for {self.what}, {self.seconds:.0f} s{f'; {self.remark}' if self.remark else ''}"


class Waiting:
    """Condition that is waited for at the moment, if any. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._since = 0.0
        self._said: tuple[str, str] | None = None
        self._logged_at = 0.0

    @property
    def now(self) -> Awaited | None:
        """Condition that is waited for; None if there is none."""
        said = self._said
        return None if said is None else Awaited(*said, time.monotonic() - self._since)

    def say(self, what: str, remark: str = "") -> None:
        """Set the condition that is waited for, until another one is set."""
        now = time.monotonic()
        if self._said is None:
            self._since = now
        if self._said != (what, remark) or now - self._logged_at >= LOG_SECONDS:
            self._said, self._logged_at = (what, remark), now
            logger.info("%s", self.now)

    def end(self) -> None:
        """Clear the condition."""
        self._said = None
