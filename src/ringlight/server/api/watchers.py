"""Server-sent events: a video as it is made, for as long as a client listens.

    event: status      the Video, when its status, stage or place in the queue has changed
    event: progress    {progress, step, num_steps, stage, eta_seconds, queue_position}
    event: preview     {step, image}, a small picture as a data URL
    event: done        the Video, and the end

What has come in between two looks is told as one event: a client that reads slowly gets fewer of them, not later ones.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from ringlight.core.errors import NotFound
from ringlight.server.api.schemas import to_video
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import View
from ringlight.wire.video import PreviewEvent, Progress, Video

HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000  # after which a listener that was cut off comes again
PAUSE_SECONDS = 0.04  # at least, between two looks at a video
LOOK_SECONDS = 5.0  # at most, for what nobody tells: the place in the queue
TICK_SECONDS = 1.0  # within which the end of the server is noticed
MAX_LOOKS = 8  # at a time, of all listeners together: their threads are not those of other requests


class Watchers:
    """Listeners for changes of videos. They hold no threads, and end when the server does."""

    def __init__(self, videos: Videos) -> None:
        self.videos = videos
        self.is_closing = False
        self._limiter = CapacityLimiter(MAX_LOOKS)

    async def look(self, video_id: str, owner: str) -> View:
        """View of a video as it is now. Raises NotFound."""
        return await to_thread.run_sync(self.videos.get, video_id, owner, limiter=self._limiter)

    async def views(self, video_id: str, owner: str) -> AsyncGenerator[View | None]:
        """Yield a video now, whenever it has changed, and when it is over; None at least every second in between.

        Ends after that, or when the server does. Raises NotFound at the beginning and when it is deleted.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                loop.call_soon_threadsafe(changed.set)

        unsubscribe = await to_thread.run_sync(self.videos.subscribe, video_id, owner, tell, limiter=self._limiter)
        try:
            looked_at = -LOOK_SECONDS
            while not self.is_closing:
                if changed.is_set() or time.monotonic() - looked_at >= LOOK_SECONDS:
                    changed.clear()
                    looked_at = time.monotonic()
                    yield (view := await self.look(video_id, owner))
                    if view.status in ("completed", "failed"):
                        return
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), TICK_SECONDS)
                    yield None
        finally:
            unsubscribe()

    async def end(self, video_id: str, owner: str) -> View | None:
        """Wait until a video is over; None if the server ends before it. Raises NotFound if it is deleted."""
        last = None
        async with contextlib.aclosing(self.views(video_id, owner)) as views:
            async for view in views:
                last = view or last
        return last if last is not None and last.status in ("completed", "failed") else None

    async def events(self, video_id: str, owner: str) -> AsyncGenerator[bytes]:
        """Yield the stream of events as it goes over the wire."""
        teller, heard_at = Teller(), time.monotonic()
        yield format_sse_event(retry=RETRY_MILLISECONDS)
        with contextlib.suppress(NotFound):  # deleted: there is no more to tell
            async with contextlib.aclosing(self.views(video_id, owner)) as views:
                async for view in views:
                    told = b"".join(teller.tell(view)) if view is not None else b""
                    if not told and time.monotonic() - heard_at >= HEARTBEAT_SECONDS:
                        told = KEEPALIVE_COMMENT
                    if told:
                        heard_at = time.monotonic()
                        yield told


class Teller:
    """Converter of views of one video into events, leaving out what has been told."""

    def __init__(self) -> None:
        self._status: tuple[Any, ...] = ()
        self._progress: Progress | None = None
        self._preview_step = -1
        self._number = 0

    def tell(self, view: View) -> list[bytes]:
        """The events for a view."""
        events: list[bytes] = []
        if view.status in ("completed", "failed"):
            return [self._event("done", to_video(view))]
        state = view.state
        status = (view.status, None if state is None else state.stage, view.queue_position, view.stored.deaths)
        if status != self._status:
            self._status = status
            events.append(self._event("status", to_video(view)))
        progress = to_progress(view)
        if progress != self._progress:
            self._progress = progress
            events.append(self._event("progress", progress))
        if state is not None and state.preview is not None and state.preview_step != self._preview_step:
            self._preview_step = state.preview_step
            image = f"data:image/jpeg;base64,{base64.b64encode(state.preview).decode()}"
            events.append(self._event("preview", PreviewEvent(state.preview_step, image)))
        return events

    def _event(self, name: str, content: Video | Progress | PreviewEvent) -> bytes:
        self._number += 1
        told = msgspec.json.encode(content).decode()
        return format_sse_event(data_str=told, event=name, id=str(self._number))


def to_progress(view: View) -> Progress:
    """Progress of a video."""
    state = view.state
    return Progress(
        progress=view.progress,
        step=0 if state is None else state.step,
        num_steps=view.stored.request.num_inference_steps,
        stage=None if state is None else state.stage or None,
        eta_seconds=None if view.eta_seconds is None else round(view.eta_seconds, 1),
        queue_position=view.queue_position,
    )
