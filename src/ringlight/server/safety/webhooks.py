"""Webhooks: tell others that a video is over, signed as Standard Webhooks has it (standardwebhooks.com).

    webhook-id: evt_...                  the same whenever one event is sent again
    webhook-timestamp: 1790000000        when this try was made, in seconds since 1970
    webhook-signature: v1,BASE64         HMAC-SHA256 of "ID.TIMESTAMP.BODY" under the secret

Events wait in an outbox that outlives the server: what one has not delivered when it ends, however it ends, the next
one takes up, with all tries before it. They arrive at least once: a server that dies between an answer and its note of
that sends the event again, under the same id.
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
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

import httpx
import msgspec

from ringlight.core.clock import Clock
from ringlight.core.errors import InvalidSetting, StoreError
from ringlight.core.plain import plain
from ringlight.core.settings import ServeSettings
from ringlight.server.http.http_error import HttpError
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
MAX_WAITING = 1000  # in memory; others stay in the outbox
MAX_AT_ONCE = 8
LOOK_SECONDS = 10.0  # between two looks into the outbox where nothing happens, say because it failed
GONE = 410  # "do not send here any more"


class WebhookDelivery(msgspec.Struct, frozen=True):
    """Event on its way to one place.

    The place is the URL of a request, which may be only where allowed, or the operator's own, wherever that is by now
    (None).
    """

    event_id: str
    video_id: str
    url: str | None
    created_at: float


class Outbox(Protocol):
    """Store of events until they are over. Called from threads; raises StoreError, and then nothing has changed."""

    def settle(self, over: Collection[WebhookDelivery], limit: int) -> Sequence[WebhookDelivery]:
        """Forget deliveries that are over; return the others, the oldest first, at most `limit`."""

    def event(self, video_id: str) -> tuple[str, Mapping[str, Any]] | None:
        """Name of a video's event, and the video as the API shows it, the same each time; None if it is deleted."""


class Webhooks:
    """Deliverer of the events in an outbox, in the background, trying again for some minutes. Close it."""

    def __init__(
        self,
        settings: ServeSettings,
        secret: bytes,
        outbound: Outbound,
        *,
        count: Callable[[Outcome], None] = lambda outcome: None,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        """Prepare deliveries.

        `outbound` reaches the hosts that requests may name; `count` is called with the outcome of each delivery.

        Raises InvalidSetting where something may be sent and there is no secret to sign with.
        """
        if (settings.webhook_url or settings.webhook_host) and not secret:
            raise InvalidSetting(f"webhooks need --webhook-secret-file, a file with {SECRET_FORM}")
        if settings.webhook_url and not _is_plain(settings.webhook_url):
            raise InvalidSetting("--webhook-url must be an http(s) URL without a user name")
        self._settings, self._secret, self._outbound = settings, secret, outbound
        self._count, self._retry_seconds = count, tuple(retry_seconds)
        self._clock = clock or Clock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news, self._closing = asyncio.Event(), asyncio.Event()
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: dict[WebhookDelivery, asyncio.Task[None]] = {}
        self._over: set[WebhookDelivery] = set()  # and still in the outbox

    @classmethod
    def from_settings(cls, settings: ServeSettings, count: Callable[[Outcome], None] = lambda outcome: None) -> Self:
        """Build from settings: the secret of `webhook_secret_file`, and `webhook_host`. Raises InvalidSetting."""
        path = settings.webhook_secret_file
        outbound = Outbound(settings.webhook_host, TIMEOUT_SECONDS, 0, purpose="webhook_url", param="webhook_url")
        return cls(settings, read_secret(Path(path)) if path else b"", outbound, count=count)

    def start(self, outbox: Outbox) -> None:
        """Start to deliver, once, what is in the outbox; without a secret it stays there for a server that may send."""
        if not self._secret:
            return
        self._outbox, self._loop = outbox, asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="webhooks", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for new events in the outbox. To be called from any thread, at any time; returns at once."""
        self._call(self._news.set)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Wait for tries that are under way, for so long; all that is not over stays in the outbox."""
        if self._thread is None:
            return
        self._call(self._closing.set)
        self._call(self._news.set)
        self._thread.join(timeout_seconds)
        self._call(self._cancel_all)
        self._thread.join(1.0)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(function)

    # In the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as self._client:
            while not self._closing.is_set():
                self._news.clear()
                for delivery in await self._settle(MAX_WAITING):
                    if delivery not in self._tasks and len(self._tasks) < MAX_WAITING:
                        self._tasks[delivery] = asyncio.create_task(self._deliver(delivery))
                await _wait(self._news, LOOK_SECONDS)
            if self._tasks:
                await asyncio.wait(self._tasks.values())
            await self._settle(0)

    async def _settle(self, limit: int) -> Sequence[WebhookDelivery]:
        """Report to the outbox what is over; return what else is in it, which is nothing as long as it fails."""
        over = frozenset(self._over)
        try:
            found = await asyncio.to_thread(self._outbox.settle, over, limit)
        except StoreError as error:
            logger.error("the outbox of webhooks cannot be looked into yet: %s", error)
            return []
        self._over -= over
        return [delivery for delivery in found if delivery not in self._over]

    def _cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        outcome: Outcome | None = None  # it stays in the outbox
        host = _host(self._url(delivery))
        try:
            outcome, problem = await self._result(delivery)
        except StoreError as error:
            problem = str(error)
        except Exception:  # an error of ours, which another try would not mend
            logger.exception("webhook %s to %s", delivery.event_id, host)
            outcome, problem = "failed", "see above"
        finally:
            del self._tasks[delivery]
        if outcome is None:
            logger.info("webhook %s to %s is kept: %s", delivery.event_id, host, problem)
            return
        if outcome != "delivered":
            logger.error("webhook %s to %s is given up: %s", delivery.event_id, host, problem)
        self._count(outcome)
        self._over.add(delivery)
        self._news.set()

    async def _result(self, delivery: WebhookDelivery) -> tuple[Outcome | None, str]:
        """Return `(outcome, problem)` after all tries; `outcome` is None if the server ends before."""
        for pause_seconds in (*self._retry_seconds, None):
            async with self._at_once:
                if self._closing.is_set():
                    return None, "the server is stopping"
                outcome, problem = await self._try(delivery)
            if outcome is not None or pause_seconds is None:
                break
            logger.info("webhook %s to %s: %s; tried again", delivery.event_id, _host(self._url(delivery)), problem)
            await _wait(self._closing, pause_seconds)
        return outcome or "failed", problem

    async def _try(self, delivery: WebhookDelivery) -> tuple[Outcome | None, str]:
        """Return `(outcome, problem)`; `outcome` is None if the delivery should be retried."""
        body, url = await asyncio.to_thread(self._body, delivery), self._url(delivery)
        if body is None or not url:
            return "dropped", "its video is deleted" if url else "there is no --webhook-url any more"
        headers = {"content-type": "application/json", "user-agent": "ringlight"}
        headers |= sign(self._secret, delivery.event_id, int(self._clock.wall()), body)
        try:
            post = self._post if delivery.url is None else self._outbound.post
            status = await post(url, body, headers)
        except HttpError as error:
            return "failed" if error.code == "webhook_url_refused" else None, str(error)
        except TimeoutError:
            return None, f"no answer in {plain(TIMEOUT_SECONDS)} s"
        except httpx.HTTPError as error:
            return None, f"{type(error).__name__} {error}".strip()
        if 200 <= status < 300:
            return "delivered", ""
        return "failed" if status == GONE else None, f"answered {status}"

    def _body(self, delivery: WebhookDelivery) -> bytes | None:
        """Body of an event, the same for every try; None if there is nothing to report any more. Raises StoreError."""
        event = self._outbox.event(delivery.video_id)
        if event is None:
            return None
        happened_at = datetime.fromtimestamp(delivery.created_at, UTC)
        content = {
            "id": delivery.event_id,
            "object": "event",
            "type": event[0],
            "created_at": int(delivery.created_at),
            "timestamp": happened_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": event[1],
        }
        return msgspec.json.encode(content)

    def _url(self, delivery: WebhookDelivery) -> str:
        return self._settings.webhook_url if delivery.url is None else delivery.url

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a body; return the status of the answer, whose body is not read."""
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            self._client.stream("POST", url, content=body, headers=dict(headers), timeout=None) as response,
        ):
            return response.status_code


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when it happens, or after that time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def sign(secret: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Sign a message: the three headers of Standard Webhooks."""
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


def _host(url: str) -> str:
    """Host of a URL for the log, because its path is often a secret."""
    try:
        return httpx.URL(url).netloc.decode("ascii")
    except httpx.InvalidURL:
        return "what is no URL"
