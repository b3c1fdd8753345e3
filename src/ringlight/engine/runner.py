"""Runner: the thread of one replica, which takes one job after another and keeps the workers alive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidCheckpoint, OutOfMemory, RinglightError, WorkerError
from ringlight.core.lora import Lora
from ringlight.core.output import remove_parts
from ringlight.engine.jobs import Job, Taken, WorkersLost
from ringlight.engine.queue import JobQueue
from ringlight.engine.replica import Replica
from ringlight.engine.waiting import Awaited

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.25  # between two looks at workers that have nothing to do
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 30.0  # before workers are started again, doubling while that fails

ReplicaStatus = Literal["starting", "ready", "busy", "lost", "failed", "closed"]


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
    them, and fails if it cannot. `on_settled` is called after every start, good or bad. `advise` tells what would
    fit where a job's memory did not suffice, from what the workers told of their device. `settle` makes the plan of a
    job that they are about to run final. `loras` are those that workers begin with.
    """

    def __init__(
        self,
        name: str,
        replica: Replica,
        queue: JobQueue,
        supervised: bool = False,
        on_settled: Callable[[], None] = lambda: None,
        advise: Callable[[Job, Mapping[str, object]], str | None] = lambda job, environment: None,
        settle: Callable[[Job, messages.WorkerReady], None] = lambda job, ready: None,
        loras: tuple[Lora, ...] = (),
    ) -> None:
        self.name = name
        self.replica = replica
        self.ready: messages.WorkerReady | None = None
        self.failure: RinglightError | None = None
        self.settled = threading.Event()  # the first start has succeeded or failed
        self._queue = queue
        self._supervised = supervised
        self._on_settled = on_settled
        self._advise = advise
        self._settle = settle
        self._lock = threading.Lock()
        self._running: Job | None = None
        self._first_loras = self._loras = loras  # that its workers have now
        self._sent = False
        self._starts = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    @property
    def running(self) -> Job | None:
        """The job that the ranks compute, or are about to."""
        return self._running

    @property
    def state(self) -> ReplicaState:
        running = self._running
        if self._closing.is_set():
            status: ReplicaStatus = "closed"
        elif self.failure is not None:
            status = "failed" if self._is_hopeless(self.failure) else "lost"
        elif not self.replica.is_ready():
            status = "starting"
        else:
            status = "ready" if running is None else "busy"
        return ReplicaState(
            name=self.name,
            status=status,
            restarts=max(0, self._starts - 1),
            job_id=None if running is None else running.id,
            environment=dict(self.ready.environment) if self.ready else {},
            problem="" if self.failure is None else str(self.failure),
            awaited=self.replica.awaited,
        )

    def start(self) -> None:
        """Begin, once."""
        if not self._thread.is_alive():
            self._thread.start()

    def cancel(self, job: Job) -> None:
        """Stop this job if it runs here; it is asked to stop already."""
        with self._lock:
            is_told = self._running is job and self._sent
        if is_told:
            try:
                self.replica.cancel(job.id)
            except WorkerError:
                logger.info("%s: %s is cancelled by its workers' end", self.name, job.id)

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
            job = self._queue.take(IDLE_SECONDS, self._loras)
            if job is not None:
                self._run(job)

    def _is_hopeless(self, problem: RinglightError) -> bool:
        """Whether workers as they were asked for will never start, and somebody has to ask for others.

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
        try:
            self.ready = self.replica.start()
            self.failure, self._loras = None, self._first_loras
            rate = self.ready.environment.get("load_gigabytes_per_second")
            how = f"{rate:.2f} GB/s" if rate else "its weights were there"
            logger.info("%s is ready, loaded in %.1f s (%s)", self.name, self.ready.load_seconds, how)
        except BaseException as error:  # whatever it is: nobody may wait for workers that never come
            self.failure = as_ringlight_error(error)
            if self._supervised and not self._closing.is_set():
                logger.error("%s: the workers do not start: %s", self.name, self.failure)
        self.settled.set()
        self._on_settled()
        return self.failure

    def _run(self, job: Job) -> None:
        with self._lock:
            self._running, self._sent = job, False
        begun = threading.Event()  # the workers have said something of it
        try:
            if (problem := self._make_ready()) is not None:
                return self._queue.put(job) if self._supervised else job.fail(problem)
            with self._lock:  # from here on the workers are told of a cancel
                self._sent = True
            if job.stop_reason is not None:
                return job.fail(job.stop_reason)
            logger.info("%s takes %s", self.name, job.id)
            assert self.ready is not None, "its workers are"
            self._settle(job, self.ready)
            job.receive(Taken(job_id=job.id, replica=self.name))
            self._loras = job.request.lora
            self.replica.run(job.order(), partial(self._hear, job, begun), partial(self._lose, job, begun))
        except BaseException as error:  # whatever it is, the next job is served
            logger.exception("%s: %s", self.name, job.id)
            begun.set()
            self._lose(job, begun, as_ringlight_error(error))
        finally:
            with self._lock:
                self._running = None

    def _hear(self, job: Job, begun: threading.Event, message: messages.JobMessage) -> None:
        begun.set()
        if isinstance(message, messages.JobFailed) and message.code == OutOfMemory.code:
            message = msgspec.structs.replace(message, message=self._with_advice(job, message.message))
        job.receive(message)

    def _with_advice(self, job: Job, text: str) -> str:
        """What to do where memory ran out, said after `text`."""
        found = self._advise(job, self.ready.environment) if self.ready else None
        return f"{text}; {found}" if found else text

    def _lose(self, job: Job, begun: threading.Event, error: RinglightError) -> None:
        """The workers have ended under a job: repeat it if that may help, else fail it.

        Workers that had not begun it may have been lost before it was sent, by what the job before left behind: once it
        is not held against this one.
        """
        remove_parts(Path(job.output), job.id)
        if job.stop_reason is not None:
            return job.fail(job.stop_reason)
        if self._closing.is_set():
            return job.fail(Cancelled("the engine was closed"))
        if not begun.is_set() and not job.state.deaths:
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


def as_ringlight_error(error: BaseException) -> RinglightError:
    """An error of ours as it is; any other as a worker's failure."""
    return error if isinstance(error, RinglightError) else WorkerError(f"{type(error).__name__}: {error}")
