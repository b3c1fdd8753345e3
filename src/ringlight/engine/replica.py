"""The Replica protocol: whatever can hold a model and make videos, one at a time, in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ringlight.core import messages
from ringlight.core.errors import RinglightError
from ringlight.engine.waiting import Awaited

Receive = Callable[[messages.JobMessage], None]
Lost = Callable[[RinglightError], None]


class Replica(Protocol):
    """Workers that together hold one copy of the model."""

    def start(self) -> messages.WorkerReady:
        """Start the workers, ending any of before, and return when they are loaded. Raises RinglightError."""
        ...

    def is_ready(self) -> bool:
        """Whether all workers are there and in step. If not, `start` begins anew."""
        ...

    @property
    def loss(self) -> RinglightError | None:
        """Error by which workers that were ready were lost, until they are ready again."""
        ...

    @property
    def awaited(self) -> Awaited | None:
        """Condition that a start waits for before it can load, such as another machine."""
        ...

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        """Run one job; return when the workers are free for another one.

        They are when the job is computed, has failed or is paused, or when they are lost.

        Every message on the job goes to `receive`, from a thread of the replica, the last one perhaps after this has
        returned: the output is written while another job runs. If the workers end before that, `lost` hears why, also
        of a job that they keep for a later turn.
        """
        ...

    def resume(self, job_id: str) -> None:
        """Resume a paused job; returns as `run` does.

        If the workers have been lost meanwhile, its `lost` was called before.
        """
        ...

    def pause(self, job_id: str, now: bool = False) -> None:
        """Ask the running job to pause, if it comes to that, or `now`: messages.PauseJob. Raises WorkerError."""
        ...

    def drop(self, job_id: str) -> None:
        """Forget a paused job; nothing more is reported of it. Raises WorkerError."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask the running job to stop at its next step. Raises WorkerError."""
        ...

    def follow(self) -> None:
        """Host ranks for an engine on another machine, until that one closes. Raises WorkerError."""
        ...

    def close(self, at_once: bool = False) -> None:
        """End the workers, once outputs in hand are written, or `at_once` also with a job. Safe to call twice."""
        ...
