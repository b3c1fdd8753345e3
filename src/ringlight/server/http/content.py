"""Files as answers: whole, in part, or only their head (RFC 9110: ranges and conditions)."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ringlight.core.errors import NotFound
from ringlight.server.http.http_error import HttpError

CHUNK_BYTES = 256 * 1024
RANGE = re.compile(r"bytes=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*", re.IGNORECASE)


class Span(NamedTuple):
    """The bytes from `start` up to `stop`, which is not among them."""

    start: int
    stop: int


class FileHead(NamedTuple):
    """Facts about a file before it is read: `etag` with its quotes, `modified_at` in seconds since 1970."""

    size: int
    etag: str
    modified_at: float

    @property
    def last_modified(self) -> str:
        """Time of modification in the format of HTTP."""
        return formatdate(self.modified_at, usegmt=True)


class Opened(Protocol):
    """A file whose bytes can be had."""

    found: FileHead

    def read(self, span: Span) -> AsyncGenerator[bytes]:
        """Yield the bytes of a span, in pieces."""
        ...


class FileSource(Protocol):
    """Source of an answer's bytes."""

    def opened(self) -> AbstractAsyncContextManager[Opened]:
        """Open the file within a block, whole until its end even if it is removed meanwhile. Raises NotFound."""
        ...


class LocalFile:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Opened]:
        """Open the file. Raises NotFound."""
        try:
            file = await anyio.open_file(self.path, "rb")
        except FileNotFoundError:
            raise NotFound(f"the file {self.path.name} is gone") from None
        async with file:
            yield _OpenFile(file)


class _OpenFile:
    def __init__(self, file: anyio.AsyncFile[bytes]) -> None:
        stat = os.fstat(file.wrapped.fileno())
        self.found = FileHead(stat.st_size, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', stat.st_mtime)
        self._file = file

    async def read(self, span: Span) -> AsyncGenerator[bytes]:
        """Yield the bytes of a span, in pieces."""
        await self._file.seek(span.start)
        left = span.stop - span.start
        while left and (chunk := await self._file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


class FileAnswer(Response):
    """Answer with a file that may be asked for in part.

    The file is opened when the answer begins, and stays whole if removed then.

    Several ranges at once are answered with the whole file, as the standard allows. Raises NotFound, and HttpError 416,
    before anything is sent.
    """

    def __init__(
        self,
        source: FileSource,
        media_type: str,
        file_name: str,
        *,
        is_attachment: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the source. `file_name` (plain ASCII) is what a client may save it as."""
        self.source = source
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        disposition = "attachment" if is_attachment else "inline"
        self.init_headers(
            {
                "accept-ranges": "bytes",
                "cache-control": "private, no-cache",  # may be kept, and is asked about each time
                "content-disposition": f'{disposition}; filename="{file_name}"',
                **(headers or {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET or HEAD; ends early when the client goes away."""
        async with self.source.opened() as opened:
            request, found = Headers(scope=scope), opened.found
            self.headers["etag"], self.headers["last-modified"] = found.etag, found.last_modified
            if is_unchanged(request, found):
                return await self._send_head(send, 304)
            span, status = asked_span(request, found), 206
            if span is None:
                span, status = Span(0, found.size), 200
            else:
                self.headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{found.size}"
            self.headers["content-length"] = str(span.stop - span.start)
            if scope["method"] == "HEAD":
                return await self._send_head(send, status)
            async with anyio.create_task_group() as group:
                group.start_soon(_end_with_client, receive, group.cancel_scope)
                await self._send_span(send, status, opened, span)
                group.cancel_scope.cancel()

    async def _send_head(self, send: Send, status: int) -> None:
        await send({"type": "http.response.start", "status": status, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b""})

    async def _send_span(self, send: Send, status: int, opened: Opened, span: Span) -> None:
        await send({"type": "http.response.start", "status": status, "headers": self.raw_headers})
        async with aclosing(opened.read(span)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def is_unchanged(request: Headers, found: FileHead) -> bool:
    """Whether the client has the file already (If-None-Match, else If-Modified-Since)."""
    if (known := request.get("if-none-match")) is not None:
        return any(tag.strip().removeprefix("W/") in (found.etag, "*") for tag in known.split(","))
    since = _seconds(request.get("if-modified-since", ""))
    return since is not None and int(found.modified_at) <= since


def asked_span(request: Headers, found: FileHead) -> Span | None:
    """Part of the file that a request asks for; None for all of it, also if we do not understand what it asks.

    Raises HttpError 416 for a part that lies outside.
    """
    match = RANGE.fullmatch(request.get("range", ""))
    if match is None or not (match[1] or match[2]):
        return None
    condition = request.get("if-range")
    if condition is not None and condition.strip() not in (found.etag, found.last_modified):
        return None
    size = found.size
    if not match[1]:
        span = Span(max(0, size - int(match[2])), size)
    elif match[2] and int(match[2]) < int(match[1]):
        return None
    else:
        span = Span(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)
    if span.start >= span.stop:
        message = f"the range {request['range']} lies outside of the file's {size} bytes"
        raise HttpError(416, "range_not_satisfiable", message, headers={"content-range": f"bytes */{size}"})
    return span


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


async def client_leaves(receive: Receive) -> None:
    """Return when the client has gone away. Its request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    await client_leaves(receive)
    scope.cancel()
