"""LocalReplica: the ranks of one replica that run on this machine. They live or die as one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import RinglightError, WorkerError, from_code
from ringlight.core.plain import plain
from ringlight.core.request import RequestLimits
from ringlight.engine import process
from ringlight.engine.process import RankProcess
from ringlight.engine.replica import Lost, Receive

CAUSE_SECONDS = 1.0
PINGS_PER_WATCHDOG = 5


class LocalReplica:
    """Worker processes on this machine, `num_ranks` over all machines. Rank 0 gives their messages on jobs.

    `first_device` is the first GPU of this machine that they take. Once they are ready a thread listens to them, and
    asks each now and then whether it still runs: also ranks that are stopped all at once are found.
    """

    def __init__(
        self, config: EngineConfig, limits: RequestLimits, num_ranks: int = 1, *, first_device: int = 0
    ) -> None:
        self._config = config
        self._limits = limits
        self._num_ranks = num_ranks
        self._first_device = first_device
        self._ranks: list[RankProcess] = []
        self._start_lock = threading.Lock()
        self._closed = False
        self._ready = False
        self._listener: threading.Thread | None = None
        self._jobs_lock = threading.Lock()
        self._jobs: dict[str, tuple[Receive, Lost]] = {}
        self._computing = ""
        self._free = threading.Event()
        self._loss: RinglightError | None = None

    @property
    def pids(self) -> list[int]:
        """The process ids of the ranks on this machine, once started."""
        return [rank.pid for rank in self._ranks]

    def start(self) -> messages.WorkerReady:
        with self._start_lock:
            if self._closed:
                raise WorkerError("the engine is closed")
            self._kill()
            with contextlib.ExitStack() as listening:
                self._ranks = []
                for setup in self._setups(listening):
                    self._ranks.append(RankProcess(setup))
        ready = self._await_ready()
        with self._jobs_lock:
            self._ready, self._loss = True, None
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._listener.start()
        return ready

    def is_ready(self) -> bool:
        return self._ready

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        with self._jobs_lock:
            if self._ready:
                self._jobs[job.job_id] = (receive, lost)
                self._computing = job.job_id
                self._free.clear()
            loss = None if self._ready else self._loss or WorkerError("the workers are not there")
        if loss is not None:
            return lost(loss)
        with contextlib.suppress(WorkerError):  # the listener hears of it too, and knows why
            self._ranks[0].send(job)
        self._free.wait()

    def cancel(self, job_id: str) -> None:
        if self._ready:
            self._ranks[0].send(messages.CancelJob(job_id=job_id))

    def follow(self) -> None:
        """Host ranks of a replica whose rank 0 is on another machine, until that one ends them.

        Raises WorkerError when they end otherwise.
        """
        assert self._listener is not None, "they have been started"
        self._listener.join()
        if self._loss is not None:
            raise self._loss

    def close(self, at_once: bool = False) -> None:
        with self._start_lock:
            self._closed = True
        may_end_well = self._ready and not (at_once and self._jobs)
        if may_end_well and self._ranks[0].place.rank == 0:  # the others hear only of rank 0
            with contextlib.suppress(WorkerError):
                self._ranks[0].send(messages.Shutdown())  # it tells the others, on every machine
            deadline = time.monotonic() + process.CLOSE_SECONDS
            for rank in self._ranks:
                rank.wait(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _setups(self, listening: contextlib.ExitStack) -> Iterator[messages.WorkerSetup]:
        """What each rank on this machine is told. On a single machine they meet at a socket that we listen on."""
        nodes = self._config.nodes
        num_local = self._num_ranks // nodes.num_nodes
        host, port, listener = "127.0.0.1", 0, -1
        if nodes.num_nodes > 1:
            host, port = nodes.host_and_port
        elif num_local > 1:
            server = listening.enter_context(socket.create_server((host, 0), backlog=num_local))
            port, listener = server.getsockname()[1], server.fileno()
        for local_rank in range(num_local):
            rank = nodes.node_rank * num_local + local_rank
            place = messages.RankPlace(
                rank=rank,
                num_ranks=self._num_ranks,
                local_rank=local_rank,
                num_local=num_local,
                host=host,
                port=port,
                listener=listener if rank == 0 else -1,
                first_device=self._first_device,
            )
            yield messages.WorkerSetup(config=self._config, limits=self._limits, place=place)

    def _await_ready(self) -> messages.WorkerReady:
        """The readiness of the first rank here, once all are ready."""
        timeout = self._config.startup_timeout_seconds
        ready: dict[int, messages.WorkerReady] = {}
        for rank, message in self._messages(timeout):
            if isinstance(message, messages.WorkerFailed):
                self._kill()
                raise from_code(message.code, message.message)
            assert isinstance(message, messages.WorkerReady)
            ready[rank.place.local_rank] = message
            if len(ready) == len(self._ranks):
                return ready[0]
        self._kill()
        raise WorkerError(f"the worker was not ready after {plain(timeout)} s")

    def _listen(self) -> None:
        """The listener's thread: hand on what the ranks say, until they are gone."""
        loss: RinglightError | None = None
        try:
            for _, message in self._messages():
                if not isinstance(message, (messages.WorkerReady, messages.WorkerFailed, messages.Pong)):
                    self._hand_on(message)
        except RinglightError as error:
            loss = error
        except Exception as error:  # a message that cannot be understood, say: nobody may wait for ranks unheard
            loss = WorkerError(f"{type(error).__name__}: {error}")
            self._kill()
        with self._jobs_lock:
            self._ready, self._loss = False, loss
            left, self._jobs = self._jobs, {}
        for _, lost in left.values():
            lost(loss or WorkerError("the workers have ended"))
        self._free.set()

    def _hand_on(self, message: messages.FromWorker) -> None:
        assert isinstance(message, messages.JobMessage)
        is_last = isinstance(message, (messages.JobCompleted, messages.JobFailed))
        with self._jobs_lock:
            job = self._jobs.pop(message.job_id, None) if is_last else self._jobs.get(message.job_id)
        if job is not None:
            receive, _ = job
            receive(message)
        if message.job_id == self._computing and (is_last or isinstance(message, messages.Computed)):
            self._free.set()

    def _messages(self, timeout_seconds: float | None = None) -> Iterator[tuple[RankProcess, messages.FromWorker]]:
        """Messages of all ranks here as they come; ends after the timeout, or when all ranks end as they were told.

        Without a timeout the ranks are asked whether they still run. Raises, with all ranks ended, when one dies, is
        silent for the watchdog's time, or says that it is out of step.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        beat_seconds = self._config.watchdog_seconds / PINGS_PER_WATCHDOG
        next_beat = time.monotonic() + beat_seconds
        by_connection = {rank.connection: rank for rank in self._ranks}
        while by_connection:
            now = time.monotonic()
            if deadline is None and now >= next_beat:
                self._ping(list(by_connection.values()))
                next_beat = now + beat_seconds
            remaining = (next_beat if deadline is None else deadline) - now
            speaking = wait(list(by_connection), max(0.0, remaining))
            if not speaking and deadline is not None:
                return
            for connection in speaking:
                rank = by_connection[connection]  # type: ignore[index]
                try:
                    message = rank.receive()
                except WorkerError as death:
                    if rank.wait(0) != 0:
                        raise self._end(rank, death) from None
                    del by_connection[rank.connection]
                    continue
                if isinstance(message, messages.GroupBroken):
                    raise self._end(rank, message)
                yield rank, message

    def _ping(self, ranks: list[RankProcess]) -> None:
        """Ask all whether they still run. Raises when one has left as many questions unanswered as the watchdog allows.

        Questions are counted, not seconds: where this process slept, the ranks have had no chance to answer.
        """
        for rank in ranks:
            if rank.unanswered >= PINGS_PER_WATCHDOG:
                silence = f"has not been heard of for {plain(self._config.watchdog_seconds)} s"
                raise self._end(rank, WorkerError(f"rank {rank.place.rank} {silence}"))
            rank.ping()

    def _end(self, rank: RankProcess, sign: WorkerError | messages.GroupBroken) -> RinglightError:
        """End all ranks, of which one has given a sign that they are out of step. Returns the error that began it.

        The first sign need not be the cause: ranks notice that another is gone before we hear why.
        """
        signs: list[WorkerError | messages.GroupBroken] = [sign]
        others = {other.connection: other for other in self._ranks if other is not rank}
        deadline = time.monotonic() + CAUSE_SECONDS
        while others and not any(map(is_cause, signs)) and time.monotonic() < deadline:
            for connection in wait(list(others), max(0.0, deadline - time.monotonic())):
                other = others[connection]  # type: ignore[index]
                try:
                    message = other.receive()
                except WorkerError as death:
                    signs.append(death)
                    del others[other.connection]
                    continue
                if isinstance(message, messages.GroupBroken):
                    signs.append(message)
                    del others[other.connection]
        self._kill()
        cause = next(filter(is_cause, signs), signs[0])
        return from_code(cause.code, cause.message) if isinstance(cause, messages.GroupBroken) else cause

    def _kill(self) -> None:
        """End the processes; their sockets are closed once nobody listens to them any more."""
        self._ready = False
        for rank in self._ranks:
            rank.kill()
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join()
        for rank in self._ranks:
            rank.connection.close()


def is_cause(sign: WorkerError | messages.GroupBroken) -> bool:
    """Whether this began it: a rank that says so, or one that was killed by a signal."""
    return sign.is_cause if isinstance(sign, messages.GroupBroken) else "signal" in str(sign)
