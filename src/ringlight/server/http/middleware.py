"""Middleware for every request, as plain ASGI: ids, headers for browsers, and the bound on bodies.

Plain, because Starlette's function middleware turns an error that is raised while a body is read into a 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringlight.core.settings import ServeSettings
from ringlight.server.http.http_error import HttpError

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

READABLE_HEADERS = (
    "x-request-id",
    "openai-poll-after-ms",
    "retry-after",
    "accept-ranges",
    "content-range",
    "content-length",
    "content-disposition",
)
"""What a page of another origin may read of an answer."""


class RequestIds:
    """Middleware that gives every request an id, the client's own if that is a plain one, in answer, state and log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class SecurityHeaders:
    """Middleware with headers that browsers need.

    A route that sets one of these itself keeps its own (the documentation does).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                headers.setdefault("content-security-policy", PAGE_POLICY if is_page else API_POLICY)
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("referrer-policy", "no-referrer")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class OneFraming:
    """Middleware against requests with two accounts of where their body ends: refuses them, and closes.

    RFC 9112, section 6.1. What follows on that connection is not read as a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and {"content-length", "transfer-encoding"} <= set(Headers(scope=scope)):
            said = "Content-Length and Transfer-Encoding exclude each other"
            refusal = HttpError(400, "invalid_body", said, headers={"connection": "close"})
            await refusal.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)


class SameSite:
    """Middleware that refuses what a page of another site sends from somebody's browser.

    Without keys it could use their machine.

    Browsers say where a request comes from, and do not let a page say otherwise; other clients say nothing. To http on
    another machine they send no Sec-Fetch-Site: there the page's origin must be this server's.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Iterable[str] = ()) -> None:
        self.app = app
        self.allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._refuses(scope["method"], Headers(scope=scope)):
            refusal = HttpError(403, "forbidden", "a page of another origin may not do this; see --cors-origin")
            await refusal.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refuses(self, method: str, headers: Headers) -> bool:
        if method in ("GET", "HEAD", "OPTIONS") or "*" in self.allowed_origins:
            return False
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin in self.allowed_origins:
            return False
        if site is not None:
            return site not in ("none", "same-origin")
        return origin is not None and not leads_to(origin, headers.get("host", ""))


def leads_to(origin: str, host: str) -> bool:
    """Whether an Origin header names the host and port that a Host header does; a port left out is the scheme's."""
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        usual = {"http": 80, "https": 443}.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or usual) == (asked.hostname, asked.port or usual)
    except ValueError:  # brackets that do not close, or a port that is no number
        return False


class BodyLimit:
    """Middleware that answers 413 for a body over the limit: by its Content-Length, and by counting what really comes.

    The server reads on to the body's end and throws it away, so that a client that is still sending sees the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = HttpError(413, "body_too_large", f"the body is over the limit of {self.max_bytes} bytes")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            await refusal.response()(scope, receive, send)
            return
        received, started, refused = 0, False, False

        async def count() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                refused = True
                raise refusal
            return message

        async def watch(message: Message) -> None:
            nonlocal started
            if refused and not started:
                return  # whatever the application makes of the refusal, the answer is ours
            started = True
            await send(message)

        try:
            await self.app(scope, count, watch)
        except HttpError as error:
            if error is not refusal or started:
                raise
        if refused and not started:
            await refusal.response()(scope, receive, send)


def install(app: FastAPI, settings: ServeSettings) -> None:
    """Add all of these to `app`; call `http_error.install` before. The last one added is the outermost."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(SameSite, allowed_origins=settings.cors_origin)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=READABLE_HEADERS,
        )
    app.add_middleware(OneFraming)  # around all that answers by itself
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestIds)
