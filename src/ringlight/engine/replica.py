"""The Replica protocol: whatever can hold a model and make videos one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ringlight.core import messages


class Replica(Protocol):
    """Workers that together hold one copy of the model."""

    def start(self) -> messages.WorkerReady:
        """Start the workers, ending any of before, and return when they are loaded. Raises RinglightError."""
        ...

    def is_ready(self) -> bool:
        """Whether all workers are there and wait for a job. Where not, `start` begins anew."""
        ...

    def run(self, job: messages.RunJob, receive: Callable[[messages.JobMessage], None]) -> None:
        """Run one job to its end, handing on every message. Whatever it raises, the workers have ended."""
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
