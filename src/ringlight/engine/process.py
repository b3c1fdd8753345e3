"""RankProcess: one worker process on this machine, reached over a socket pair."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from ringlight.core import messages
from ringlight.core.config import worker_environment
from ringlight.core.errors import InvalidInstallation, WorkerError
from ringlight.core.installation import DOCTOR
from ringlight.engine.network import interface_of

WORKER = "ringlight.worker.start"
CLOSE_SECONDS = 3.0
STDERR = 2  # the descriptor: sys.stderr may be an object without one (in notebooks, in tests)


class RankDeath(WorkerError):
    """The end of a rank's process. `status` is as of subprocess: negative for a signal, None where it hangs."""

    def __init__(self, message: str, status: int | None) -> None:
        self.status = status
        super().__init__(message)


class RankProcess:
    """A process that holds a model, or its part of one. Its death shows at once, as the end of the socket."""

    def __init__(self, setup: messages.WorkerSetup) -> None:
        """Start it. It loads, and says when it is ready. Raises InvalidInstallation."""
        self.place = setup.place
        self.connection: Connection
        self.connection, theirs = Pipe()
        self._send_lock = threading.Lock()
        self.unanswered = 0
        inherited = [theirs.fileno(), *setup.place.inherited]
        with theirs:
            arguments = [str(theirs.fileno()), msgspec.json.encode(setup).decode()]
            try:
                self._process = launch(arguments, inherited, rank_environment(setup.place))
            except (FileNotFoundError, PermissionError) as error:
                raise InvalidInstallation(f"{sys.executable} cannot be run: {error.strerror}; {DOCTOR}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: messages.ToWorker) -> None:
        """Raises WorkerError when the process is gone or does not listen."""
        if not self._send_lock.acquire(timeout=CLOSE_SECONDS):
            raise WorkerError("the worker does not listen")
        try:
            self.connection.send_bytes(messages.encode(message))
        except OSError:
            raise self.death() from None
        finally:
            self._send_lock.release()

    def receive(self) -> messages.FromWorker:
        """The next message, waited for. Raises WorkerError when the process is gone."""
        try:
            message: messages.FromWorker = messages.from_worker_decoder.decode(self.connection.recv_bytes())
            self.unanswered = 0  # whatever it says: it runs
            return message
        except (EOFError, OSError):
            raise self.death() from None

    def ping(self) -> None:
        """Ask whether it still runs. What it says next, an answer or not, sets `unanswered` to 0."""
        self.unanswered += 1
        with contextlib.suppress(WorkerError):  # its end shows when it is listened to
            self.send(messages.Ping(number=self.unanswered))

    def death(self) -> RankDeath:
        """Why the socket has ended."""
        rank = f"rank {self.place.rank}: " if self.place.num_ranks > 1 else ""
        try:
            status = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return RankDeath(f"{rank}the worker closed its connection and hangs", None)
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -9 else ""
        return RankDeath(f"{rank}the worker process died ({cause}){hint}; its log says more", status)

    def wait(self, seconds: float) -> int | None:
        """The exit status, or None if it still runs after so long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it now, whatever it does, stopped or not."""
        self._process.kill()
        self._process.wait()


def launch(arguments: list[str], inherited: list[int], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the worker's program with these arguments and descriptors, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, *arguments],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        stdout=STDERR,
        env=environment,
        start_new_session=True,
    )


def rank_environment(place: messages.RankPlace) -> dict[str, str]:
    """A worker's environment. Between nodes it names the interface that reaches node 0, unless ours names one."""
    environment = worker_environment(place.num_nodes)
    if place.num_nodes > 1 and "GLOO_SOCKET_IFNAME" not in environment:
        interface = environment["GLOO_SOCKET_IFNAME"] = interface_of(place.address)
        environment.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": exactly so, not what begins so
    return environment
