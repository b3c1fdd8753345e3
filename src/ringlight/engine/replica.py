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
        """Whether all workers are there and in step. Where not, `start` begins anew."""
        ...

    @property
    def awaited(self) -> Awaited | None:
        """What a start waits for before it can load, such as another machine."""
        ...

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        """Run one job; returns when the workers are free for another, as the job is computed, has failed or has made
        way, or when they are lost.

        Every message on the job goes to `receive`, from a thread of the replica, the last one perhaps after this has
        returned: the output is written while another job runs. If the workers end before that, `lost` hears why, also
        of a job that they keep for a later turn.
        """
        ...

    def resume(self, job_id: str) -> None:
        """Go on with a job that has made way; returns as `run` does. Where the workers have been lost meanwhile, its
        `lost` has heard of it by then."""
        ...

    def pause(self, job_id: str, now: bool = False) -> None:
        """Ask the job that is computed to make way, if it comes to that, or `now`: messages.PauseJob. Raises
        WorkerError."""
        ...

    def drop(self, job_id: str) -> None:
        """Forget a job that has made way; nothing is heard of it any more. Raises WorkerError."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask for the job that is computed to stop at its next step. Raises WorkerError."""
        ...

    def follow(self) -> None:
        """Host ranks for an engine on another machine, until that one closes. Raises WorkerError."""
        ...

    def close(self, at_once: bool = False) -> None:
        """End the workers, once outputs in hand are written, or `at_once` also with a job. Safe to call twice."""
        ...
