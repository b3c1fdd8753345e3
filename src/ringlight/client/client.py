"""Client: videos of a Ringlight server, from Python."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from ringlight.client.api_error import ApiError, Unreachable
from ringlight.client.events import Event, read_events
from ringlight.client.transport import Transport
from ringlight.core.output import part_path
from ringlight.core.plain import plain
from ringlight.core.report import RunReport
from ringlight.wire.batch import Batch, BatchCheck, BatchList
from ringlight.wire.model import ModelCard, ModelList, OfferedLora
from ringlight.wire.video import Video, VideoLink, VideoList

URL = "http://127.0.0.1:8898"
PAGE_SIZE = 100
POLL_SECONDS = 1.0  # where the server does not say when to ask again
BATCH_SECONDS = 600.0  # for an answer to a thousand requests at once
PATIENCE_SECONDS = 60.0  # how long `wait` outlives a server that is being restarted
POLL_HEADER = "openai-poll-after-ms"

Variant = Literal["video", "thumbnail", "spritesheet"]
Kind = TypeVar("Kind")
Awaited = TypeVar("Awaited", Video, Batch)


class Client:
    """Client of one server. Use it as a context manager, from one thread or several.

    All methods raise ApiError for what the server refuses and Unreachable where it does not answer. A lost connection
    and an answer that says "later" are tried at most `max_retries` times more; no video is made twice by that.
    """

    def __init__(
        self, url: str = URL, api_key: str | None = None, timeout_seconds: float = 30.0, max_retries: int = 3
    ) -> None:
        self._transport = Transport(url, api_key, timeout_seconds, max_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections to the server."""
        self._transport.close()

    def create(
        self, prompt: str, image: bytes | Path | None = None, last_image: bytes | Path | None = None, **fields: Any
    ) -> Video:
        """Order a video.

        `image` is its first frame, `last_image` its last; `fields` are the API's (num_frames, size, seed, lora ...).

        It is acknowledged and will be made when this returns, whatever happens to the server then.
        """
        return self._order("/v1/videos", {"prompt": prompt} | fields, input_reference=image, last_image=last_image)

    def get(self, video_id: str) -> Video:
        """Ask for a video as it is now."""
        return _decode(self._transport.send("GET", _path(video_id)).content, Video)

    def list(self, limit: int | None = None, order: Literal["asc", "desc"] = "desc") -> Iterator[Video]:
        """Yield all videos, or the first `limit`; newest first unless `order` says asc. Pages are fetched as needed."""
        return self._pages("/v1/videos", VideoList, limit, order)

    def wait(
        self,
        video_id: str,
        timeout_seconds: float | None = None,
        on_change: Callable[[Video], None] | None = None,
    ) -> Video:
        """Wait for a video, completed or failed. Raises TimeoutError; the video goes on.

        `on_change` is called with every state that differs from the one seen before. A server that is being restarted
        is waited for.
        """
        return self._wait(_path(video_id), Video, timeout_seconds, on_change)

    def _wait(
        self, path: str, kind: type[Awaited], timeout_seconds: float | None, on_change: Callable[[Awaited], None] | None
    ) -> Awaited:
        """Wait until what lies at a path is over, and return it."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        heard = time.monotonic()
        before: Awaited | None = None
        while True:
            try:
                response = self._transport.send("GET", path)
            except (ApiError, Unreachable) as error:
                if not error.is_passing or time.monotonic() - heard > PATIENCE_SECONDS:
                    raise
                pause_seconds = POLL_SECONDS
            else:
                heard = time.monotonic()
                found = _decode(response.content, kind)
                if on_change is not None and found != before:
                    on_change(found)
                before = found
                if found.is_over:
                    return found
                pause_seconds = _poll_seconds(response.headers.get(POLL_HEADER))
            left_seconds = math.inf if deadline is None else deadline - time.monotonic()
            if timeout_seconds is not None and left_seconds <= 0:
                raise TimeoutError(f"{path.rpartition('/')[2]} is not over after {plain(timeout_seconds)} s")
            time.sleep(min(pause_seconds, left_seconds))

    def events(self, video_id: str) -> Iterator[Event]:
        """Yield the events of a video as they happen, up to the Video that is over.

        Ends earlier where the video is deleted or the server ends; a lost connection is Unreachable.
        """
        with self._transport.stream(_path(video_id, "events")) as answer:
            yield from read_events(answer)

    def cancel(self, video_id: str) -> Video:
        """Stop a video; one that is over stays as it is."""
        return _decode(self._transport.send("POST", _path(video_id, "cancel")).content, Video)

    def delete(self, video_id: str) -> None:
        """Remove a video and all that belongs to it; one that is not over is stopped."""
        self._transport.send("DELETE", _path(video_id))

    def remix(self, video_id: str, prompt: str, **fields: Any) -> Video:
        """Order the video again with another prompt, and the same settings and, unless `fields` has one, seed."""
        return self._order(_path(video_id, "remix"), {"prompt": prompt} | fields)

    def extend(
        self,
        video_id: str,
        prompt: str,
        seconds: float | None = None,
        last_image: bytes | Path | None = None,
        **fields: Any,
    ) -> Video:
        """Order a video that continues a completed one from its last frame, both joined. `last_image` ends it."""
        given = {"prompt": prompt, "video": video_id, "seconds": None if seconds is None else plain(seconds)}
        return self._order("/v1/videos/extensions", given | fields, last_image=last_image)

    def download(self, video_id: str, path: Path, variant: Variant = "video") -> None:
        """Write the video, or a picture of it, over `path`, whole or not at all. Raises OSError."""
        part = part_path(path, uuid4().hex)

        def once() -> None:
            content = self._transport.stream(_path(video_id, "content"), params={"variant": variant})
            with content as answer, part.open("wb") as file:
                file.writelines(answer.iter_bytes())

        try:
            self._transport.persist(once)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def link(self, video_id: str, variant: Variant = "video") -> VideoLink:
        """Make a link to a file of a video, which whoever has it can fetch without a key until `expires_at`."""
        answer = self._transport.send("POST", _path(video_id, "link"), params={"variant": variant})
        made = _decode(answer.content, VideoLink)
        return msgspec.structs.replace(made, url=self._transport.url + made.url)

    def report(self, video_id: str) -> RunReport:
        """Report on where the time and memory of a completed video went."""
        return _decode(self._transport.send("GET", _path(video_id, "report")).content, RunReport)

    def create_batch(
        self,
        name: str,
        requests: Sequence[Mapping[str, Any]],
        priority: int | None = None,
        retry_failed: bool = False,
    ) -> Batch:
        """Order many videos, each with the API's fields, all or none; they are made behind those of `create`.

        What is sent under the same name again is added to that batch, but for requests that it has. The answer has
        those of this call, in their order.
        """
        body = _batch(name, requests, priority) | {"retry_failed": retry_failed}
        return self._send_batch("/v1/batches", body, Batch)

    def check_batch(self, name: str, requests: Sequence[Mapping[str, Any]], priority: int | None = None) -> BatchCheck:
        """Check requests without ordering them; return what is wrong with each."""
        return self._send_batch("/v1/batches/check", _batch(name, requests, priority), BatchCheck)

    def get_batch(self, batch_id: str) -> Batch:
        """Ask for a batch as it is now, with its requests."""
        return _decode(self._transport.send("GET", _batch_path(batch_id)).content, Batch)

    def list_batches(self, limit: int | None = None, order: Literal["asc", "desc"] = "desc") -> Iterator[Batch]:
        """Yield all batches without their requests, or the first `limit`, as `list` does for videos."""
        return self._pages("/v1/batches", BatchList, limit, order)

    def wait_batch(
        self,
        batch_id: str,
        timeout_seconds: float | None = None,
        on_change: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Wait for all videos of a batch, as `wait` does for one."""
        return self._wait(_batch_path(batch_id), Batch, timeout_seconds, on_change)

    def cancel_batch(self, batch_id: str) -> Batch:
        """Stop what is not over of a batch."""
        answer = self._transport.send("POST", _batch_path(batch_id, "cancel"), timeout=BATCH_SECONDS)
        return _decode(answer.content, Batch)

    def delete_batch(self, batch_id: str) -> None:
        """Remove a batch and its videos; what is not over is stopped."""
        self._transport.send("DELETE", _batch_path(batch_id), timeout=BATCH_SECONDS)

    def models(self) -> tuple[str, ...]:
        """The names of the models that the server has."""
        return tuple(model.id for model in _decode(self._transport.send("GET", "/v1/models").content, ModelList).data)

    def loras(self) -> tuple[OfferedLora, ...]:
        """The LoRAs that videos of the server may have, and those that all have."""
        return tuple(self.card().loras)

    def card(self) -> ModelCard:
        """The first model that the server has, with what a request may leave out and what bounds it."""
        found = _decode(self._transport.send("GET", "/v1/models").content, ModelList).data
        if not found:
            raise ApiError.unexpected("the server names no model")
        return found[0]

    def is_ready(self) -> bool:
        """Whether the server takes videos and has workers that make them; False also where it does not answer."""
        try:
            self._transport.once("GET", "/readyz")
        except ApiError as error:
            if error.status != 503:
                raise
            return False
        except Unreachable:
            return False
        return True

    def _pages(
        self, path: str, kind: type[VideoList | BatchList], limit: int | None, order: Literal["asc", "desc"]
    ) -> Iterator[Any]:
        """Yield the items of all pages, which are fetched as needed."""
        after: str | None = None
        left = limit
        while left is None or left > 0:
            query = {"limit": PAGE_SIZE if left is None else min(left, PAGE_SIZE), "order": order, "after": after}
            params = {name: value for name, value in query.items() if value is not None}
            page = _decode(self._transport.send("GET", path, params=params).content, kind)
            yield from page.data
            if not page.has_more or not page.data:
                return
            after = page.data[-1].id
            left = None if left is None else left - len(page.data)

    def _send_batch(self, path: str, body: Mapping[str, Any], kind: type[Kind]) -> Kind:
        """Send a batch. It is safe to repeat, because a batch is known by its name."""
        return _decode(self._transport.send("POST", path, json=body, timeout=BATCH_SECONDS).content, kind)

    def _order(self, path: str, fields: Mapping[str, Any], **pictures: bytes | Path | None) -> Video:
        """Create a video of these fields and pictures, of which None is left out: as JSON, or as a form with files."""
        given = msgspec.to_builtins({name: value for name, value in fields.items() if value is not None})
        files = {
            name: ("image", picture.read_bytes() if isinstance(picture, Path) else picture)
            for name, picture in pictures.items()
            if picture is not None
        }
        if not files:
            return self._post(path, json=given)
        return self._post(path, data={name: _as_form(value) for name, value in given.items()}, files=files)

    def _post(self, path: str, **body: Any) -> Video:
        """Create a video, once however often the call is sent."""
        headers = {"idempotency-key": uuid4().hex}
        return _decode(self._transport.send("POST", path, headers=headers, **body).content, Video)


def _path(video_id: str, *rest: str) -> str:
    return "/".join(("/v1/videos", quote(video_id, safe=""), *rest))


def _batch_path(batch_id: str, *rest: str) -> str:
    return "/".join(("/v1/batches", quote(batch_id, safe=""), *rest))


def _batch(name: str, requests: Sequence[Mapping[str, Any]], priority: int | None) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins({"name": name, "requests": [dict(each) for each in requests]})
    return body if priority is None else body | {"priority": priority}


def _decode(content: bytes, kind: type[Kind]) -> Kind:
    """Decode an answer. Raises ApiError if it is something else, as from another server."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError.unexpected(f"not the answer of a Ringlight server: {error}") from None


def _as_form(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _poll_seconds(milliseconds: str | None) -> float:
    return int(milliseconds) / 1000 if milliseconds is not None and milliseconds.isdecimal() else POLL_SECONDS
