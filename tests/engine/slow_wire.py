"""A connection between an engine and a rank through which bytes go as slowly as a test lets them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from ringlight.core import messages
from ringlight.engine.launch.launcher import Start
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.rank import RankHandle
from ringlight.engine.ranked import RankedReplica

PIECE_BYTES = 2**16


class Valve:
    """Lets all bytes pass, or so many as are allowed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed: int | None = None

    def allow(self, num_bytes: int | None) -> None:
        """So many from now on, and no more than those; None for all."""
        with self._changed:
            self._allowed = num_bytes
            self._changed.notify_all()

    def take(self) -> int:
        """How many bytes may pass now, waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self._allowed is None or self._allowed)
            return PIECE_BYTES if self._allowed is None else min(PIECE_BYTES, self._allowed)

    def passed(self, num_bytes: int) -> None:
        with self._changed:
            if self._allowed is not None:
                self._allowed -= min(self._allowed, num_bytes)


def relay(source: Connection, sink: Connection, valve: Valve) -> None:
    """Bring bytes from one end to another until the source ends."""
    try:
        while wait([source]) and (piece := os.read(source.fileno(), valve.take())):
            valve.passed(len(piece))
            while piece:
                piece = piece[os.write(sink.fileno(), piece) :]
    except OSError:
        pass
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sink.fileno())) as end:
        end.shutdown(socket.SHUT_WR)  # closed it would stay open while the other thread looks at it


class SlowLauncher(LocalLauncher):
    """Reaches rank 0 through two valves, one for each direction."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.to_rank, self.from_rank = Valve(), Valve()

    def launch(self, start: Start) -> list[RankHandle]:
        first, *others = super().launch(start)
        self._real = real = first.connection
        first.connection, inner = Pipe()
        for source, sink, valve in ((inner, real, self.to_rank), (real, inner, self.from_rank)):
            threading.Thread(target=relay, args=(source, sink, valve), daemon=True).start()
        return [first, *others]

    def queued(self) -> bytes:
        """What the rank has sent and the valve holds back, as far as the socket has room for it."""
        with socket.socket(fileno=os.dup(self._real.fileno())) as real:
            try:
                return real.recv(2**20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return b""

    def open(self) -> None:
        """Let everything pass."""
        for valve in (self.to_rank, self.from_rank):
            valve.allow(None)

    def let_pass(self, num_bytes: int, until: Callable[[], bool]) -> None:
        """Let bytes pass both ways, so many at a time, until something is so."""
        while not until():
            for valve in (self.to_rank, self.from_rank):
                valve.allow(num_bytes)
            time.sleep(0.001)


class HeardReplica(RankedReplica):
    """Notes what its ranks say, in order."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.heard: list[messages.FromWorker] = []

    def _hear(self, message: messages.FromWorker) -> None:
        super()._hear(message)
        self.heard.append(message)

    def ping(self) -> None:
        self._ranks[0].ping()
