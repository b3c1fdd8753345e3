"""The Launcher protocol: whatever can start the ranks of a replica, and does so again after they are lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from ringlight.core.errors import WorkerError
from ringlight.engine.rank import RankHandle
from ringlight.engine.waiting import Waiting


class TooLate(Exception):
    """Error for a start that took too long."""


@dataclass(frozen=True)
class Start:
    """Start of ranks. It is to be over by the `deadline` of time.monotonic, and ends early once it is `closed`.

    `checkpoint` is the digest of the one that ranks had loaded before, empty at a first start. `waiting` is told what
    this waits for.
    """

    checkpoint: str
    deadline: float
    closed: threading.Event
    waiting: Waiting

    def pause(self, seconds: float) -> None:
        """Let so much time pass. Raises TooLate after the deadline, WorkerError if the engine is closed."""
        if (remaining := self.deadline - time.monotonic()) <= 0:
            raise TooLate
        self.closed.wait(min(seconds, remaining))
        self.require_open()

    def require_open(self) -> None:
        """Raise WorkerError where the engine is closed."""
        if self.closed.is_set():
            raise WorkerError("the engine is closed")


class Launcher(Protocol):
    """Starts the ranks of one replica that are this engine's to start."""

    def launch(self, start: Start) -> list[RankHandle]:
        """Start the ranks, in their order. They load, and say when they are ready.

        What was started is ended where this raises: RinglightError, or TooLate after the deadline.
        """
        ...

    def end(self) -> None:
        """Clean up what ended ranks leave behind. Safe to call twice."""
        ...
