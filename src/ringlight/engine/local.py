"""LocalReplica: a worker process on this machine, reached over a socket pair."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from ringlight.core import messages
from ringlight.core.config import EngineConfig, worker_environment
from ringlight.core.errors import WorkerError, from_code
from ringlight.core.request import RequestLimits

CLOSE_SECONDS = 3.0
STDERR = 2  # the descriptor: sys.stderr may be an object without one (in notebooks, in tests)


class LocalReplica:
    """One worker process. Its death shows at once, as the end of the socket."""

    def __init__(self, config: EngineConfig, limits: RequestLimits) -> None:
        self._setup = messages.WorkerSetup(config=config, limits=limits)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._send_lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._closed = False
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The process id of the worker, once started."""
        return self._process.pid if self._process else None

    def start(self) -> messages.WorkerReady:
        self._connection, theirs = Pipe()
        setup = msgspec.json.encode(self._setup).decode()
        with theirs, self._start_lock:
            if self._closed:
                raise WorkerError("the engine is closed")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ringlight.worker.main", str(theirs.fileno()), setup],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=STDERR,
                env=worker_environment(),
                start_new_session=True,
            )
        timeout = self._setup.config.startup_timeout_seconds
        if not self._connection.poll(timeout):
            self.close()
            raise WorkerError(f"the worker was not ready after {timeout:g} s")
        message = self._receive()
        if isinstance(message, messages.WorkerFailed):
            self.close()
            raise from_code(message.code, message.message)
        assert isinstance(message, messages.WorkerReady)
        self._ready = True
        return message

    def run(self, job: messages.RunJob, receive: Callable[[messages.JobMessage], None]) -> None:
        self._send(job)
        while True:
            message = self._receive()
            assert not isinstance(message, (messages.WorkerReady, messages.WorkerFailed))
            if message.job_id == job.job_id:
                receive(message)
                if isinstance(message, (messages.JobCompleted, messages.JobFailed)):
                    return

    def cancel(self, job_id: str) -> None:
        self._send(messages.CancelJob(job_id=job_id))

    def close(self) -> None:
        with self._start_lock:
            self._closed = True
        if self._process is None:
            return
        if not self._ready:  # it loads, and would not listen
            self._process.kill()
        with contextlib.suppress(WorkerError):
            self._send(messages.Shutdown())
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: messages.ToWorker) -> None:
        assert self._connection is not None
        if not self._send_lock.acquire(timeout=CLOSE_SECONDS):
            raise WorkerError("the worker does not listen")
        try:
            self._connection.send_bytes(messages.encode(message))
        except OSError:
            raise self._death() from None
        finally:
            self._send_lock.release()

    def _receive(self) -> messages.FromWorker:
        assert self._connection is not None
        try:
            message: messages.FromWorker = messages.from_worker_decoder.decode(self._connection.recv_bytes())
            return message
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> WorkerError:
        assert self._process is not None
        try:
            status = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerError("the worker closed its connection and hangs")
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -9 else ""
        return WorkerError(f"the worker process died ({cause}){hint}; its log says more")
