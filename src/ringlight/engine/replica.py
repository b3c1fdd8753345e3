"""The Replica protocol: whatever can hold a model and make videos one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ringlight.core import messages


class Replica(Protocol):
    """Workers that together hold one copy of the model."""

    def start(self) -> messages.WorkerReady:
        """Start the workers and return when their weights are loaded. Raises RinglightError."""
        ...

    def run(self, job: messages.RunJob, receive: Callable[[messages.JobMessage], None]) -> None:
        """Run one job to its end, handing on every message. Raises WorkerError when a worker dies."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask for the job to stop at its next step."""
        ...

    def follow(self) -> None:
        """Host ranks for an engine on another machine, until that one closes. Raises WorkerError."""
        ...

    def close(self) -> None:
        """End the workers. Safe to call twice."""
        ...
