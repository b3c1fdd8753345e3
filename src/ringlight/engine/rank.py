"""RankHandle: a worker process as its engine knows it, wherever it runs: a connection, and how it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Protocol

import msgspec

from ringlight.core import messages
from ringlight.core.errors import WorkerError

CLOSE_SECONDS = 3.0
KILL_SECONDS = 10.0  # until a process that was killed is gone; one on a machine that is gone tells nobody


class Ending(msgspec.Struct, frozen=True):
    """End of a process.

    `told` is the sentence on it; `is_well`: it ended as ordered; `is_cause`: it surely did not follow from the end of
    another rank.
    """

    told: str
    is_well: bool = False
    is_cause: bool = False


class Process(Protocol):
    """Process of a rank, on whichever machine."""

    @property
    def pid(self) -> int:
        """Process id on its machine."""
        ...

    def wait(self, seconds: float) -> Ending | None:
        """Wait for its end, or return None if it still runs after so many seconds."""
        ...

    @property
    def unheard(self) -> str:
        """Message on a process that still runs, and whose connection has ended."""
        ...

    def kill(self) -> None:
        """Kill it now, whatever it does, stopped or not."""
        ...


class RankDeath(WorkerError):
    """The end of a rank's process, or of the connection to one that hangs."""

    def __init__(self, message: str, ending: Ending) -> None:
        self.ending = ending
        super().__init__(message)


class RankHandle:
    """Process that holds a model, or its part of one. Its death shows at once, as the end of the connection."""

    def __init__(self, place: messages.RankPlace, connection: Connection, process: Process) -> None:
        self.place = place
        self.connection = connection
        self._process = process
        self._send_lock = threading.Lock()
        self._end_lock = threading.Lock()
        self.unanswered = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: messages.ToWorker) -> None:
        """Send a message. Raises WorkerError if the process is gone or does not listen."""
        if not self._send_lock.acquire(timeout=CLOSE_SECONDS):
            raise WorkerError("the worker does not listen")
        try:
            self.connection.send_bytes(messages.encode(message))
        except OSError:
            raise self.death() from None
        finally:
            self._send_lock.release()

    def receive(self) -> messages.FromWorker:
        """Wait for the next message. Raises WorkerError if the process is gone."""
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
        """Reason why the connection ended."""
        rank = f"rank {self.place.rank}: " if self.place.num_ranks > 1 else ""
        ending = self._process.wait(CLOSE_SECONDS) or Ending(self._process.unheard)
        return RankDeath(f"{rank}{ending.told}", ending)

    def wait(self, seconds: float) -> Ending | None:
        """Wait for the end of its process, or return None if it still runs after so many seconds."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Kill it now, whatever it does, stopped or not."""
        self._process.kill()

    def hang_up(self) -> None:
        """End the connection for whoever listens to it, also if the other side is out of reach.

        It is not closed: until nobody listens, its descriptor may not become another file's.
        """
        with self._end_lock:
            if not self.connection.closed:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.connection.fileno())) as ours:
                    ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection's descriptor back, once. Nobody may listen to it any more."""
        with self._end_lock, self._send_lock:
            self.connection.close()


def let_end(ranks: Sequence[RankHandle]) -> None:
    """Return when ranks that were told to end have done so, or have had time enough."""
    _await(ranks, CLOSE_SECONDS)


def end_all(ranks: Sequence[RankHandle]) -> None:
    """End ranks, and return when they have ended, or those that are left are out of reach."""
    for rank in ranks:
        rank.kill()
    _await(ranks, KILL_SECONDS)


def _await(ranks: Sequence[RankHandle], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for rank in ranks:
        rank.wait(max(0.0, deadline - time.monotonic()))
