"""Webhooks: tell others that a video is over, signed as Standard Webhooks has it (standardwebhooks.com).

    webhook-id: evt_...                  the same whenever one event is sent again
    webhook-timestamp: 1790000000        when this try was made, in seconds since 1970
    webhook-signature: v1,BASE64         HMAC-SHA256 of "ID.TIMESTAMP.BODY" under the secret

Events wait in memory: those that a server has not delivered when it ends are not sent again by the next one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec

from ringlight.core.errors import InvalidSetting
from ringlight.core.settings import ServeSettings
from ringlight.server.http.errors import ApiError
from ringlight.server.safety.outbound import Outbound

logger = logging.getLogger(__name__)

Outcome = Literal["delivered", "failed", "dropped"]

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # of the standard
SECRET_FORM = (
    f"{SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, "
    f'such as `echo "{SECRET_PREFIX}$(openssl rand -base64 32)"` writes'
)
RETRY_SECONDS = (2.0, 10.0, 60.0, 300.0)  # between five tries
TIMEOUT_SECONDS = 15.0  # of one try
MAX_WAITING = 1000
MAX_AT_ONCE = 8
GONE = 410  # "do not send here any more"


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one place. The operator's own URL may be anywhere, a request's only where allowed."""

    url: str
    is_operators: bool
    event_id: str
    body: bytes

    @property
    def host(self) -> str:
        """What may be logged of the URL, whose path is often a secret."""
        try:
            return httpx.URL(self.url).netloc.decode("ascii")
        except httpx.InvalidURL:
            return "what is no URL"


class Webhooks:
    """Sends events from any thread, in the background, trying again for some minutes. Close it."""

    def __init__(
        self,
        settings: ServeSettings,
        secret: bytes,
        outbound: Outbound,
        *,
        count: Callable[[Outcome], None] = lambda outcome: None,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        """`outbound` reaches the hosts that requests may name; `count` hears what became of each delivery.

        Raises InvalidSetting where something may be sent and there is no secret to sign with.
        """
        if (settings.webhook_url or settings.webhook_hosts) and not secret:
            raise InvalidSetting(f"webhooks need --webhook-secret-file, a file with {SECRET_FORM}")
        if settings.webhook_url and not _is_plain(settings.webhook_url):
            raise InvalidSetting("--webhook-url must be an http(s) URL without a user name")
        self._settings, self._secret, self._outbound = settings, secret, outbound
        self._count, self._retry_seconds = count, tuple(retry_seconds)
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None  # from the first event on, with its loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def from_settings(cls, settings: ServeSettings, count: Callable[[Outcome], None] = lambda outcome: None) -> Self:
        """With the secret of `webhook_secret_file`, reaching `webhook_hosts` for requests. Raises InvalidSetting."""
        path = settings.webhook_secret_file
        outbound = Outbound(settings.webhook_hosts, TIMEOUT_SECONDS, 0, purpose="webhook_url", param="webhook_url")
        return cls(settings, read_secret(Path(path)) if path else b"", outbound, count=count)

    def send(self, url: str | None, event: str, data: Mapping[str, Any]) -> None:
        """Tell the request's `url`, if it has one, and the operator's that `event` happened. Returns at once.

        `data` is the video as the API shows it. What cannot be sent is logged and counted, never raised.
        """
        now, event_id = time.time(), f"evt_{uuid4().hex}"
        content = {
            "id": event_id,
            "object": "event",
            "type": event,
            "created_at": int(now),
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
        }
        body = msgspec.json.encode(content)
        for target, is_operators in ((url, False), (self._settings.webhook_url, True)):
            if target:
                self._enqueue(Delivery(target, is_operators, event_id, body))

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Let tries that are under way end, for so long; what waits for its next try is given up."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended just now
                self._loop.call_soon_threadsafe(self._cancel_all)
            self._thread.join(1.0)

    def _enqueue(self, delivery: Delivery) -> None:
        with self._lock:
            if not self._is_closed and self._num_waiting < MAX_WAITING:
                self._num_waiting += 1
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    self._thread = threading.Thread(target=self._run, args=(self._loop,), name="webhooks", daemon=True)
                    self._thread.start()
                self._loop.call_soon_threadsafe(self._begin, delivery)
                return
        reason = "the server is stopping" if self._is_closed else f"{MAX_WAITING} others wait"
        logger.error("webhook %s to %s is dropped: %s", delivery.event_id, delivery.host, reason)
        self._count("dropped")

    # In the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._client = httpx.AsyncClient(trust_env=False)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._client:
            await self._closing.wait()
            while self._tasks:
                await asyncio.wait(self._tasks)

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _deliver(self, delivery: Delivery) -> None:
        outcome: Outcome = "failed"
        problem = "the server is stopping"
        try:
            for pause_seconds in (*self._retry_seconds, None):
                async with self._at_once:
                    problem, is_final = await self._try(delivery)
                if not problem:
                    outcome = "delivered"
                    return
                if is_final or pause_seconds is None or await self._closes_within(pause_seconds):
                    return
                logger.info("webhook %s to %s: %s; tried again", delivery.event_id, delivery.host, problem)
        finally:
            if outcome == "failed":
                logger.error("webhook %s to %s is given up: %s", delivery.event_id, delivery.host, problem)
            self._count(outcome)
            with self._lock:
                self._num_waiting -= 1

    async def _closes_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _try(self, delivery: Delivery) -> tuple[str, bool]:
        """What was wrong, "" where nothing was, and whether there is no use in another try."""
        headers = {"content-type": "application/json", "user-agent": "ringlight"}
        headers |= sign(self._secret, delivery.event_id, int(time.time()), delivery.body)
        try:
            post = self._post if delivery.is_operators else self._outbound.post
            status = await post(delivery.url, delivery.body, headers)
        except ApiError as error:
            return str(error), error.code == "webhook_url_refused"
        except TimeoutError:
            return f"no answer in {TIMEOUT_SECONDS:g} s", False
        except httpx.HTTPError as error:
            return f"{type(error).__name__} {error}".strip(), False
        return ("" if 200 <= status < 300 else f"answered {status}"), status == GONE

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer, whose body is not read."""
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            self._client.stream("POST", url, content=body, headers=dict(headers), timeout=None) as response,
        ):
            return response.status_code


def sign(secret: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed message."""
    digest = hmac.digest(secret, b"%s.%d.%s" % (event_id.encode(), timestamp, body), hashlib.sha256)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def read_secret(path: Path) -> bytes:
    """The bytes behind the whsec_... of a file. Raises InvalidSetting, which does not show them."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in ASCII"
        raise InvalidSetting(f"--webhook-secret-file {path}: {reason}") from None
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise InvalidSetting(f"--webhook-secret-file {path}: needs {SECRET_FORM}")
    return secret


def _is_plain(url: str) -> bool:
    """Whether it is an http(s) URL that names a host and no user."""
    try:
        parts, host = httpx.URL(url), urlsplit(url).hostname
    except (httpx.InvalidURL, ValueError):
        return False
    return parts.scheme in ("http", "https") and bool(host) and not parts.userinfo
