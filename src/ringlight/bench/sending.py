"""Sending a round of requests to a server, and keeping what became of each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from ringlight.bench.workload import Order
from ringlight.client import ApiError, Client, Unreachable, Video
from ringlight.core.plain import plain
from ringlight.core.report import RunReport

Fate = Literal["completed", "failed", "timed_out"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was sent. `kind` counts the workload's requests, `place` those of the round, both from 0.

    `latency_seconds` lie between sending it and hearing that it is completed. `inference_seconds` and `report` are what
    the server says of it; None where it says nothing.
    """

    column: str
    round: int
    place: int
    kind: int
    fate: Fate
    sent_seconds: float
    latency_seconds: float | None = None
    video_id: str = ""
    error: str = ""
    inference_seconds: float | None = None
    report: RunReport | None = None


class Recipient:
    """Client of a server, and why it is `lost` once the server answered none of its tries to create a video."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lost = ""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a column in a round: `concurrency` at a time, or with None each at its own moment.

    `layout` is asked of the server with each request; None does not ask.
    """

    column: str
    round: int
    concurrency: int | None
    timeout_seconds: float
    layout: str | None = None


def send(recipient: Recipient, orders: Sequence[Order], turn: Turn, tell: Callable[[Sample], None]) -> None:
    """Send all orders, and return when each of them is over; `tell` hears of each as it ends, one at a time.

    To one that is lost they fail at once, for its cause. Interrupted, it cancels what is under way and leaves
    threads to their end.
    """
    under_way = UnderWay(recipient, orders, turn, tell)
    threads = [
        threading.Thread(target=under_way.work, daemon=True)
        for _ in range(min(turn.concurrency or len(orders), len(orders)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        under_way.stop()
        raise
    if under_way.error is not None:
        raise under_way.error


class UnderWay:
    """Orders of a round that threads share."""

    def __init__(
        self, recipient: Recipient, orders: Sequence[Order], turn: Turn, tell: Callable[[Sample], None]
    ) -> None:
        self.error: BaseException | None = None
        self._recipient, self._client = recipient, recipient.client
        self._turn, self._tell = turn, tell
        self._left = list(enumerate(orders))[::-1]
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._stopped = threading.Event()
        self._start = time.monotonic()

    def work(self) -> None:
        """Take orders until there are none."""
        try:
            while not self._stopped.is_set():
                with self._lock:
                    if not self._left:
                        return
                    place, order = self._left.pop()
                if self._turn.concurrency is None:
                    self._stopped.wait(max(0.0, self._start + order.at_seconds - time.monotonic()))
                if not self._stopped.is_set():
                    sample = self._one(place, order)
                    if self._stopped.is_set() and sample.fate != "completed":
                        return  # it was we who ended it
                    with self._lock:
                        self._tell(sample)
        except BaseException as error:  # kept for the thread that waits for us
            self.error = error
            self._stopped.set()

    def stop(self) -> None:
        """Take no more orders, and cancel what is under way, as far as the server still listens."""
        self._stopped.set()
        for video_id in list(self._running):
            self._cancel(video_id)

    def _one(self, place: int, order: Order) -> Sample:
        sent = time.monotonic()
        begun = Sample(
            column=self._turn.column,
            round=self._turn.round,
            place=place,
            kind=order.kind,
            fate="failed",
            sent_seconds=sent - self._start,
        )
        if self._recipient.lost:
            return msgspec.structs.replace(begun, error=self._recipient.lost)
        video_id = ""
        try:
            video = self._create(order)
            video_id = video.id
            self._running.add(video_id)
            video = self._follow(video, sent + self._turn.timeout_seconds)
            latency = time.monotonic() - sent
        except TimeoutError:
            self._cancel(video_id)
            error = f"not over after {plain(self._turn.timeout_seconds)} s"
            return msgspec.structs.replace(begun, fate="timed_out", video_id=video_id, error=error)
        except (ApiError, Unreachable) as error:
            return msgspec.structs.replace(begun, video_id=video_id, error=f"{error.code}: {error}")
        finally:
            self._running.discard(video_id)
        if video.status != "completed":
            said = f"{video.error.code}: {video.error.message}" if video.error else "it says nothing"
            return msgspec.structs.replace(begun, video_id=video_id, error=said)
        return msgspec.structs.replace(
            begun,
            fate="completed",
            video_id=video_id,
            latency_seconds=latency,
            inference_seconds=video.inference_time_s,
            report=self._report(video_id),
        )

    def _create(self, order: Order) -> Video:
        try:
            return self._client.create(
                image=order.image, last_image=order.last_image, layout=self._turn.layout, **order.fields
            )
        except Unreachable as error:
            self._recipient.lost = f"{error.code}: {error}"
            raise

    def _follow(self, video: Video, deadline: float) -> Video:
        """Wait for a video to be over, by its events or else by polling. Raises TimeoutError."""
        left_seconds = max(0.0, deadline - time.monotonic())
        timer = threading.Timer(left_seconds, self._cancel, [video.id])
        timer.daemon = True
        timer.start()
        try:
            for event in self._client.events(video.id):
                if isinstance(event, Video):
                    video = event
        except ApiError as error:
            if error.status not in (404, 405, 501):
                raise
        finally:
            timer.cancel()
        if time.monotonic() >= deadline and video.status != "completed":
            raise TimeoutError
        return video if video.is_over else self._client.wait(video.id, deadline - time.monotonic())

    def _report(self, video_id: str) -> RunReport | None:
        """Report of a video from the server; None if it has none that we can read."""
        try:
            return self._client.report(video_id)
        except (ApiError, Unreachable):
            return None

    def _cancel(self, video_id: str) -> None:
        try:
            if video_id:
                self._client.cancel(video_id)
        except (ApiError, Unreachable):
            pass  # it is over, or the server is gone: either way nothing runs for us
