"""Runner: the thread of one replica, which takes one job after another and keeps the workers alive."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidCheckpoint, OutOfMemory, RinglightError, WorkerError
from ringlight.core.lora import Lora
from ringlight.core.output import remove_parts
from ringlight.engine.holding import Ticket
from ringlight.engine.job_state import Released, Taken, WorkersLost
from ringlight.engine.jobs import Job
from ringlight.engine.queue import JobQueue
from ringlight.engine.replica import Replica
from ringlight.engine.waiting import Awaited

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.25  # between two looks at workers that have nothing to do
LOOK_SECONDS = 0.25  # between two looks at who waits while one denoises: who comes is looked at then
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 30.0  # before workers are started again, doubling while that fails

ReplicaStatus = Literal["starting", "ready", "busy", "lost", "failed", "closed"]
SERVING: frozenset[ReplicaStatus] = frozenset({"ready", "busy"})


class ReplicaState(msgspec.Struct, frozen=True, kw_only=True):
    """One replica at this moment. `restarts` counts how often workers were started after the first time.

    `problem` is why they did not start, `awaited` what this start waits for. `failed`: they never will.
    """

    name: str
    status: ReplicaStatus
    restarts: int
    job_id: str | None
    environment: dict[str, object]
    problem: str
    awaited: Awaited | None = None


class Runner:
    """Serves a queue with one replica until it is closed.

    `supervised`: workers that are lost are started again at once, and for as long as it takes; jobs wait meanwhile.
    Only a first start can be hopeless, and one that finds another checkpoint than before. Otherwise the next job starts
    them, and fails if it cannot. `on_settled` is called after every start, good or bad. `look` is called where a job
    may have to make way for another. `advise` tells what would fit where a job's memory did not suffice, from what the
    workers told of their device. `settle` makes the plan of a job that they are about to run final, and says how many
    bytes others may have beside it. `loras` are those that workers begin with.
    """

    def __init__(
        self,
        name: str,
        replica: Replica,
        queue: JobQueue,
        supervised: bool = False,
        on_settled: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
        advise: Callable[[Job, Mapping[str, object]], str | None] = lambda job, environment: None,
        settle: Callable[[Job, messages.WorkerReady], float] = lambda job, ready: math.inf,
        loras: tuple[Lora, ...] = (),
    ) -> None:
        self.name = name
        self.replica = replica
        self.ready: messages.WorkerReady | None = None
        self.failure: RinglightError | None = None
        self.settled = threading.Event()  # the first start has succeeded or failed
        self.holding = queue.serve(name)
        self._queue = queue
        self._supervised = supervised
        self._on_settled = on_settled
        self._look = look
        self._advise = advise
        self._settle = settle
        self._first_loras = self._loras = loras  # that its workers have now
        self._starts = 0
        self._looked_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    @property
    def state(self) -> ReplicaState:
        turn = self.holding.turn
        if self._closing.is_set():
            status: ReplicaStatus = "closed"
        elif self.failure is not None:
            status = "failed" if self._is_hopeless(self.failure) else "lost"
        elif not self.replica.is_ready():
            status = "starting"
        else:
            status = "ready" if turn is None else "busy"
        return ReplicaState(
            name=self.name,
            status=status,
            restarts=max(0, self._starts - 1),
            job_id=None if turn is None else turn.job.id,
            environment=dict(self.ready.environment) if self.ready else {},
            problem="" if self.failure is None else str(self.failure),
            awaited=self.replica.awaited,
        )

    def start(self) -> None:
        """Start the thread, once."""
        if not self._thread.is_alive():
            self._thread.start()

    def cancel(self, job: Job) -> None:
        """Stop this job if it runs here; it is asked to stop already."""
        turn = self.holding.turn
        if turn is not None and turn.job is job and turn.is_sent:
            try:
                self.replica.cancel(job.id)
            except WorkerError:
                logger.info("%s: %s is cancelled by its workers' end", self.name, job.id)

    def pause(self, ticket: Ticket) -> None:
        """Ask a job to pause, if it runs here."""
        if self.holding.turn is ticket:
            with contextlib.suppress(WorkerError):  # their end frees the replica too
                self.replica.pause(ticket.job.id, now=ticket.is_urged)

    def drop(self, ticket: Ticket) -> None:
        """Forget a paused job, if it is kept here."""
        if ticket.holder is self.holding and ticket.has_made_way:
            with contextlib.suppress(WorkerError):  # which forgets it too
                if ticket.job.stop_reason is not None:  # nobody waits for its state
                    self.replica.cancel(ticket.job.id)
                self.replica.drop(ticket.job.id)

    def put_back(self, ticket: Ticket, why: str) -> None:
        """Let any replica resume a job that was kept here, from saved state; it is withdrawn already."""
        if ticket.holder is self.holding:
            logger.info("%s: %s goes on from its file later: %s", self.name, ticket.job.id, why)
            self.drop(ticket)
            is_settled = ticket.is_saved or not self.replica.is_ready()
            ticket.job.receive(Released(job_id=ticket.job.id))
            self._queue.put(ticket.job, None if is_settled else self.holding)

    def close(self, at_once: bool = False) -> None:
        """End the workers and the thread. A job that runs is lost."""
        self._closing.set()
        self.replica.close(at_once)
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            problem = self._make_ready() if self._supervised or self._starts == 0 else None
            if self._supervised and problem is not None:
                if self._is_hopeless(problem):
                    self._closing.wait()
                self._closing.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LAST_PAUSE_SECONDS)
                continue
            pause_seconds = FIRST_PAUSE_SECONDS
            ticket = self._queue.take(self.holding, IDLE_SECONDS, self._loras)
            if ticket is not None:
                self._run(ticket)

    def _is_hopeless(self, problem: RinglightError) -> bool:
        """Whether workers as they were asked for will never start, so that people must change something.

        What has run before will run again, once a machine or a device is back; but not from another checkpoint.
        """
        return problem.kind.mender != "time" and (self.ready is None or isinstance(problem, InvalidCheckpoint))

    def _make_ready(self) -> RinglightError | None:
        """Start the workers where they are not ready. Returns what keeps them from it.

        Without supervision, workers that could not be started at all are not tried again.
        """
        if self.replica.is_ready() or (self.failure is not None and self.ready is None and not self._supervised):
            return self.failure
        self._starts += 1
        if self.failure is None and (loss := self.replica.loss) is not None:
            self.failure = None if self._is_hopeless(loss) else loss  # it is tried at least once
            logger.warning("%s: the workers are started anew: %s", self.name, loss)
        self._queue.starting(self.holding)
        self._queue.open_up(self.holding)  # of workers that are gone
        try:
            self.ready = self.replica.start()
            self._queue.ready(self.holding)
            self.failure, self._loras = None, self._first_loras
            rate = self.ready.environment.get("load_gigabytes_per_second")
            how = f"{rate:.2f} GB/s" if rate else "its weights were there"
            logger.info("%s is ready, loaded in %.1f s (%s)", self.name, self.ready.load_seconds, how)
        except BaseException as error:  # whatever it is: nobody may wait for workers that never come
            self.failure = as_ringlight_error(error)
            self._queue.lost(self.holding)
            if self._supervised and not self._closing.is_set():
                logger.error("%s: the workers do not start: %s", self.name, self.failure)
        self.settled.set()
        self._on_settled()
        return self.failure

    def _run(self, ticket: Ticket) -> None:
        """Run a job's turn."""
        job = ticket.job
        try:
            problem = self._make_ready()
            if ticket.is_void:  # it was kept by workers that are gone
                return
            if problem is not None:
                self._queue.withdraw(ticket)
                return self._queue.put(job) if self._supervised else job.fail(problem)
            ticket.is_sent = True  # from here on the workers are told of a cancel
            if job.stop_reason is not None:
                self.drop(ticket)
                return job.fail(job.stop_reason)
            self._begin(ticket)
        except BaseException as error:  # whatever it is, the next job is served
            logger.exception("%s: %s", self.name, job.id)
            ticket.has_begun = True
            self.drop(ticket)
            self._lose(ticket, as_ringlight_error(error))
        finally:
            self._queue.end_turn(ticket)
            self._look()

    def _begin(self, ticket: Ticket) -> None:
        """Begin or resume a job, and return when the workers are free."""
        job = ticket.job
        logger.info("%s takes %s%s", self.name, job.id, " up again" if ticket.has_made_way else "")
        assert self.ready is not None, "its workers are"
        for each in self._queue.make_room(ticket, self._settle(job, self.ready)):
            self.put_back(each, "its memory is needed")
        job.receive(Taken(job_id=job.id, replica=self.name))
        self._loras = job.request.lora
        if ticket.has_made_way:
            return self.replica.resume(job.id)
        self.replica.run(job.order(), partial(self._hear, ticket), partial(self._lose, ticket))

    def _hear(self, ticket: Ticket, message: messages.JobMessage) -> None:
        job = ticket.job
        if self.holding.turn is ticket and not ticket.has_begun:  # and it is not a picture that comes late
            ticket.has_begun = True
            self._queue.open_up(self.holding)  # orders are obeyed one after the other
        if isinstance(message, messages.JobFailed) and message.code == OutOfMemory.code:
            message = msgspec.structs.replace(message, message=self._with_advice(job, message.message))
        job.receive(message)
        if isinstance(message, messages.JobPaused):
            self._hold(ticket, message)
        was_looked_at = time.monotonic() < self._looked_at + LOOK_SECONDS
        match message:
            case messages.StepFinished() if was_looked_at:
                pass
            case messages.StageStarted() | messages.StepFinished() | messages.JobPaused():
                self._looked_at = time.monotonic()
                self._look()

    def _hold(self, ticket: Ticket, paused: messages.JobPaused) -> None:
        """Keep a paused job with the workers."""
        job, why = ticket.job, ticket.why
        logger.info("%s: %s makes way after step %d for %s", self.name, job.id, paused.step, why)
        put_back = self._queue.hold(ticket, paused.held_bytes)
        if put_back is None:
            assert job.stop_reason is not None
            ticket.has_made_way = True
            self.drop(ticket)
            return job.fail(job.stop_reason)
        for each in put_back:
            self.put_back(each, "too much is kept")

    def _with_advice(self, job: Job, text: str) -> str:
        """Append advice on memory to `text`."""
        found = self._advise(job, self.ready.environment) if self.ready else None
        return f"{text}; {found}" if found else text

    def _lose(self, ticket: Ticket, error: RinglightError) -> None:
        """Repeat a job whose workers have ended if that may help, else fail it.

        Workers that had not begun it may have been lost before it was sent, by what the job before left behind: once it
        is not held against this one. Nor is it ever against one that they merely kept.
        """
        job = ticket.job
        was_kept = ticket.has_made_way and not ticket.has_begun
        if not self._queue.withdraw(ticket):
            return
        remove_parts(Path(job.output), job.id)
        self._queue.open_up(self.holding)
        if job.stop_reason is not None:
            return job.fail(job.stop_reason)
        if self._closing.is_set():
            return job.fail(Cancelled("the engine was closed"))
        if was_kept:
            return self.put_back(ticket, str(error))
        if not ticket.has_begun and not job.state.deaths:
            return self._repeat(job, error)
        if isinstance(error, OutOfMemory):
            return job.fail(OutOfMemory(self._with_advice(job, str(error))))
        keep = job.submission.keep
        if keep is None or not isinstance(error, WorkerError):
            return job.fail(error)
        if job.state.deaths >= keep.max_repeats:
            repeated = f"repeated {job.state.deaths} times; " if job.state.deaths else ""
            return job.fail(WorkerError(f"{repeated}{error}"))
        self._repeat(job, error)

    def _repeat(self, job: Job, error: RinglightError) -> None:
        """Put a job back whose workers have ended."""
        logger.warning("%s: %s will be repeated: %s", self.name, job.id, error)
        job.receive(WorkersLost(job_id=job.id))
        self._queue.put(job)
        self._look()


def as_ringlight_error(error: BaseException) -> RinglightError:
    """Return an error of ours as it is; any other as a worker's failure."""
    return error if isinstance(error, RinglightError) else WorkerError(f"{type(error).__name__}: {error}")
