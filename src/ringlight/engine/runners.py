"""Runners: those of an engine's current replicas, addressed together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from ringlight.core import messages
from ringlight.core.errors import RinglightError
from ringlight.engine.holding import Ticket
from ringlight.engine.jobs import Job
from ringlight.engine.queue import JobQueue
from ringlight.engine.replica import Replica
from ringlight.engine.replicas import ReplicaSource
from ringlight.engine.runner import ReplicaState, Runner
from ringlight.engine.waiting import Awaited

logger = logging.getLogger(__name__)


class Runners:
    """Runners that were added and not dismissed.

    Safe to use from any thread, except for adding and dismissing, which one thread does.
    """

    def __init__(self, source: ReplicaSource, make: Callable[[str, Replica], Runner], number: int) -> None:
        """`make` a runner, by its name, of a replica from the `source`; at first there are `number`."""
        self._source = source
        self._make = make
        self._runners: tuple[Runner, ...] = ()  # never changed, but replaced: readers have one that stays
        self._is_started = threading.Event()
        for _ in range(number):
            self.add()

    def __len__(self) -> int:
        return len(self._runners)

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners)

    def add(self) -> Runner:
        """Add a runner, with the smallest free number; it starts if the others were started."""
        names = {each.name for each in self._runners}
        number = next(number for number in range(len(names) + 1) if _name(number) not in names)
        runner = self._make(_name(number), self._source.make(number))
        self._runners = (*self._runners, runner)
        if self._is_started.is_set():
            runner.start()
        return runner

    def dismiss_one(self, queue: JobQueue, until_written: Callable[[Runner], None]) -> None:
        """Close one idle runner, if there is any, once its output is written.

        One that is not ready goes first, then one that keeps no job, then the newest. Jobs that it keeps are resumed
        elsewhere.
        """

        def place(runner: Runner) -> tuple[bool, int, int]:
            return runner.holding.is_serving, queue.num_kept(runner.holding), -self._runners.index(runner)

        for runner in sorted(self._runners, key=place):
            if (kept := queue.leave(runner.holding)) is not None:
                break
        else:
            return
        logger.info("%s is not needed any more", runner.name)
        for ticket in kept:
            runner.put_back(ticket, "its replica is not needed any more")
        until_written(runner)
        self._runners = tuple(each for each in self._runners if each is not runner)
        runner.close()

    def start(self) -> None:
        """Start all runners, and from now on those that are added."""
        self._is_started.set()
        for runner in self._runners:
            runner.start()

    @property
    def ready(self) -> messages.WorkerReady | None:
        """Message of the workers of a replica that has started; None before that."""
        return next((runner.ready for runner in self._runners if runner.ready), None)

    @property
    def have_settled(self) -> bool:
        """Whether the first start of each has succeeded or failed."""
        return all(runner.settled.is_set() for runner in self._runners)

    @property
    def failure(self) -> RinglightError | None:
        """Error by which every replica was lost or does not start; None if one is well, or none is wanted."""
        failures = [runner.failure for runner in self._runners]
        return failures[0] if failures and all(failures) else None

    @property
    def states(self) -> list[ReplicaState]:
        """The replicas as they are now."""
        return [runner.state for runner in self._runners]

    @property
    def awaited(self) -> Awaited | None:
        """Condition that a replica's start waits for before it can load; None if there is none."""
        return next(filter(None, (runner.replica.awaited for runner in self._runners)), None)

    def pause(self, ticket: Ticket) -> None:
        """Ask a job to pause, wherever it runs."""
        for runner in self._runners:
            runner.pause(ticket)

    def put_back(self, ticket: Ticket, why: str) -> None:
        """Let any replica resume a job, wherever it is kept; it is withdrawn already."""
        for runner in self._runners:
            runner.put_back(ticket, why)

    def cancel(self, job: Job) -> None:
        """Stop a job, wherever it runs; it is asked to stop already."""
        for runner in self._runners:
            runner.cancel(job)

    def drop(self, ticket: Ticket) -> None:
        """Forget a paused job, wherever it is kept."""
        for runner in self._runners:
            runner.drop(ticket)

    def close(self, at_once: bool = False) -> None:
        """End all workers, and give up what they shared."""
        for runner in self._runners:
            runner.close(at_once)
        self._source.close()


def _name(number: int) -> str:
    return f"replica-{number}"
