"""RequestMeter: counts, times and logs every request, as plain ASGI."""

from __future__ import annotations

import logging
import time

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringlight.core.codes import CODES
from ringlight.server.observability.metrics import OTHER, Metrics
from ringlight.wire.errors import ErrorEnvelope

logger = logging.getLogger("ringlight.access")

QUIET_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})  # asked for every few seconds
MAX_PATH_LENGTH = 256
MAX_ENVELOPE_BYTES = 2**16


class RequestMeter:
    """Middleware that measures requests.

    Put it inside what gives requests their ids, and outside of all else.

    An answer of 400 and above counts as rejected, with the code that its envelope holds.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, sent_bytes, answer = time.perf_counter(), 0, 0, b""

        async def watch(message: Message) -> None:
            nonlocal status, sent_bytes, answer
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
                if status >= 400 and sent_bytes <= MAX_ENVELOPE_BYTES:
                    answer += message.get("body", b"")

        try:
            await self.app(scope, receive, watch)
        finally:
            self._record(scope, status or 500, sent_bytes, answer, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, sent_bytes: int, answer: bytes, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        self.metrics.observe_request(scope["method"], route, status, seconds)
        if status >= 400:
            self.metrics.observe_rejected(code_in(answer) or f"http_{status}")
        level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
        if not logger.isEnabledFor(level):
            return
        path = scope.get("raw_path", b"").decode("latin-1")[:MAX_PATH_LENGTH]  # still encoded: no line breaks, no query
        fields = {
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "sent_bytes": sent_bytes,
            "client": scope["client"][0] if scope.get("client") else "",
        }
        logger.log(level, "request", extra=fields)


def code_in(answer: bytes) -> str:
    """Code in an error's envelope, "" if there is none that is ours."""
    try:
        code = msgspec.json.decode(answer, type=ErrorEnvelope).error.code
    except msgspec.DecodeError:
        return ""
    return code if code is not None and code in CODES else ""
