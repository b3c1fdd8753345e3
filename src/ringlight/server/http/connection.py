"""Connections that are bounded in number and in patience. What uvicorn answers by itself comes in the envelope too."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ringlight.server.http.http_error import HttpError
from ringlight.server.http.middleware import RequestIds

HEAD_SECONDS = 20.0  # for the head of a request, from its first byte or from the beginning of the connection
STALL_SECONDS = 60.0  # in which a client takes nothing of what is sent
CLOSE = {"connection": "close"}


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer for the application if there are too many connections."""
    await HttpError(503, "unavailable", "there are too many connections", headers=CLOSE).response()(
        scope, receive, send
    )


class Connection(H11Protocol):
    """Connection with limits. Over the limit it is told to come back; over twice the limit it is closed at once."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most = self.limit_concurrency or 0
        self.limit_concurrency = None  # uvicorn's own answer has no envelope
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most and len(self.connections) > 2 * self._most:
            return transport.abort()
        if self._most and len(self.connections) > self._most:
            self.app = RequestIds(crowded)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Start the timer of a stalled client, which does not take what is sent."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer of a stalled client: it reads again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        answer = HttpError(400, "invalid_body", f"this is not HTTP that can be read: {msg}", headers=CLOSE).response()
        answer.headers["x-request-id"] = f"req_{uuid4().hex}"
        for event in (
            h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        """Bound the time for a head that the client has begun; a body is bounded by who reads it."""
        is_idle = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None
        if is_idle and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        elif not is_idle and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
