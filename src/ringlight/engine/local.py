"""LocalReplica: the ranks of one replica that run on this machine. They live or die as one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import WorkerError, from_code
from ringlight.core.request import RequestLimits
from ringlight.engine import process
from ringlight.engine.process import RankProcess

CAUSE_SECONDS = 1.0


class LocalReplica:
    """Worker processes on this machine, `num_ranks` over all machines. Rank 0 gives their messages on jobs."""

    def __init__(self, config: EngineConfig, limits: RequestLimits, num_ranks: int = 1) -> None:
        self._config = config
        self._limits = limits
        self._num_ranks = num_ranks
        self._ranks: list[RankProcess] = []
        self._start_lock = threading.Lock()
        self._closed = False
        self._ready = False

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
        self._ready = True
        return ready

    def is_ready(self) -> bool:
        # Between jobs a rank has nothing to say but that it leaves, or by the end of its socket that it has.
        return self._ready and not wait([rank.connection for rank in self._ranks], 0)

    def run(self, job: messages.RunJob, receive: Callable[[messages.JobMessage], None]) -> None:
        try:
            self._run(job, receive)
        except BaseException:
            self._kill()
            raise

    def _run(self, job: messages.RunJob, receive: Callable[[messages.JobMessage], None]) -> None:
        self._ranks[0].send(job)
        for _, message in self._messages():
            assert not isinstance(message, (messages.WorkerReady, messages.WorkerFailed, messages.GroupBroken))
            if message.job_id == job.job_id:
                receive(message)
                if isinstance(message, (messages.JobCompleted, messages.JobFailed)):
                    return

    def cancel(self, job_id: str) -> None:
        for rank_0 in self._ranks[:1]:  # none while they are started
            rank_0.send(messages.CancelJob(job_id=job_id))

    def follow(self) -> None:
        """Host ranks of a replica whose rank 0 is on another machine, until that one ends them.

        Raises WorkerError when they end otherwise.
        """
        with contextlib.suppress(EOFError):
            for _ in self._messages(until_shutdown=True):
                pass

    def close(self) -> None:
        with self._start_lock:
            self._closed = True
        if not self._ready or self._ranks[0].place.rank > 0:  # they load, are out of step, or hear only of rank 0
            return self._kill()
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
        raise WorkerError(f"the worker was not ready after {timeout:g} s")

    def _messages(
        self, timeout_seconds: float | None = None, until_shutdown: bool = False
    ) -> Iterator[tuple[RankProcess, messages.FromWorker]]:
        """Messages of all ranks here as they come; ends after the timeout.

        Raises, with all ranks ended, when one dies or says that it is out of step; EOFError when all have ended as they
        were told.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        by_connection = {rank.connection: rank for rank in self._ranks}
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            speaking = wait(list(by_connection), remaining)
            if not speaking:
                return
            for connection in speaking:
                rank = by_connection[connection]  # type: ignore[index]
                try:
                    message = rank.receive()
                except WorkerError as death:
                    if until_shutdown and rank.wait(0) == 0:
                        del by_connection[rank.connection]
                        if not by_connection:
                            raise EOFError from None
                        continue
                    raise self._end(rank, death) from None
                if isinstance(message, messages.GroupBroken):
                    raise self._end(rank, message)
                yield rank, message

    def _end(self, rank: RankProcess, sign: WorkerError | messages.GroupBroken) -> Exception:
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
        self._ready = False
        for rank in self._ranks:
            rank.kill()


def is_cause(sign: WorkerError | messages.GroupBroken) -> bool:
    """Whether this began it: a rank that says so, or one that was killed by a signal."""
    return sign.is_cause if isinstance(sign, messages.GroupBroken) else "signal" in str(sign)
