"""Serving: the process that listens, and how it ends: it lets go what runs, then its clients, then its workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from ringlight.core.errors import InvalidSetting, Occupied, RinglightError
from ringlight.core.plain import plain
from ringlight.core.settings import ServeSettings
from ringlight.server.api.parts import Parts
from ringlight.server.http.connection import Connection

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048
MAX_HEAD_BYTES = 64 * 1024
KEEP_ALIVE_SECONDS = 30  # more than clients wait between two polls
GOODBYE_SECONDS = 3  # for answers that are on their way when all else is over
DRAIN_TICK_SECONDS = 0.2


class Server(uvicorn.Server):
    """Server that drains on the first SIGTERM or SIGINT for `drain_seconds`, ends at once on the second.

    What is not over is in the store, to be gone on with by the next server. `failure` is why no replica will start
    again, where that is for the operator to mend.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",  # of uvicorn's own; requests are logged by middleware
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GOODBYE_SECONDS,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self.failure: RinglightError | None = None
        self._parts: Parts = app.state.parts
        self._drain_seconds = settings.drain_timeout
        self._num_signals = 0
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture signals. Unlike uvicorn's, this does not raise the signal again at the end: the exit status is 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal: the loop does the rest at its next tick, within a tenth of a second."""
        self._num_signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Handle a tick of the server, ten times a second; return whether the server ends."""
        if self._num_signals and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        self.failure = self._failure_to_start()
        return await super().on_tick(counter) or self.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, let answers end, and then the videos (the application's lifespan)."""
        self._parts.watchers.is_closing = True
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        videos, deadline = self._parts.videos, time.monotonic() + self._drain_seconds
        videos.is_draining = True
        logger.info("stopping; running videos have %s s, a second signal ends them now", plain(self._drain_seconds))
        while self._num_signals < 2 and time.monotonic() < deadline:
            if await to_thread.run_sync(videos.drain, DRAIN_TICK_SECONDS):
                break
        self.should_exit = True

    def _failure_to_start(self) -> RinglightError | None:
        replicas = self._parts.videos.engine.replicas
        is_hopeless = all(replica.status == "failed" for replica in replicas)
        return self._parts.videos.engine.failure if is_hopeless else None


def run(app: FastAPI, settings: ServeSettings) -> None:
    """Serve until a signal ends it.

    Raises InvalidSetting if it cannot listen, and what kept all replicas from starting if only the operator can mend
    that.
    """
    listener = listen(settings.address, settings.port)
    logger.info("listening on %s", url_of(listener))
    server = Server(app, settings)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


def url_of(listener: socket.socket) -> str:
    """URL at which clients on this machine find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address: a socket that takes connections already.

    Raises InvalidSetting, and Occupied if another process has its address.
    """
    listener = bind(host, port)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _no_address(host, port, error) from None
    return listener


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to its address. Raises as `listen` does."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _no_address(host, port, error) from None
    return listener


def _no_address(host: str, port: int, error: OSError) -> InvalidSetting:
    kind = Occupied if error.errno == errno.EADDRINUSE else InvalidSetting
    return kind(f"cannot listen on {host} port {port}: {error.strerror or error}")
