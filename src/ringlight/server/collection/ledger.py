"""Ledger: follows jobs, writes down how they go and end, and tells whoever listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from ringlight.core.clock import Clock
from ringlight.core.errors import Cancelled, InvalidRequest, NotFound, RinglightError, StoreError
from ringlight.core.plain import coded
from ringlight.engine.jobs import Job, JobState
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import JobStore
from ringlight.server.collection.view import View
from ringlight.wire.video import VideoError

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0  # between two tries to write down how a job ended


class Ledger:
    """The jobs of an engine between their acceptance and the moment when their end is on the disk.

    A thread of its own writes, again and again where the store does not take it: no replica waits for a disk. Safe to
    use from any thread.
    """

    def __init__(
        self,
        store: JobStore,
        folder: DataFolder,
        retention_seconds: float,
        on_end: Callable[[View], None],
        tells_operator: bool,
        clock: Clock,
    ) -> None:
        """`on_end` is called once for every job that ends, after that is written, from the ledger's thread.

        `tells_operator`: with each end it is written that the operator's webhook is to hear of it.
        """
        self._store = store
        self._folder = folder
        self._retention_seconds = retention_seconds
        self._on_end = on_end
        self._tells_operator = tells_operator
        self._clock = clock
        self._changed = threading.Condition()  # guards what follows; notified when there is news, or an end is written
        self._jobs: dict[str, Job] = {}
        self._began_at: dict[str, float] = {}
        self._spent_seconds: dict[str, float] = {}  # of those that began: less what a clock that only goes on says
        self._told: dict[str, tuple[int, ...]] = {}  # what follows of a job, as it is written or about to be
        self._unwritten: dict[str, Job] = {}
        self._listeners: dict[str, dict[object, Callable[[], None]]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write, once."""
        self._thread.start()

    def close(self) -> None:
        """Write what can be written, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def job(self, video_id: str) -> Job | None:
        """The job of a video, until its end is written."""
        return self._jobs.get(video_id)

    def follow(self, job: Job, began_at: float | None) -> None:
        """A job has been accepted; `began_at` is when another server began it, if one did."""
        with self._changed:
            self._jobs[job.id] = job
            if began_at is not None:
                self._began(job.id, began_at)

    def await_end(self, video_id: str, timeout_seconds: float) -> None:
        """Return when its end is written, or after that time."""
        with self._changed:
            self._changed.wait_for(lambda: video_id not in self._jobs, timeout_seconds)

    def on_change(self, job: Job) -> None:
        """Called by the engine from any of its threads, which do not wait for a disk."""
        state = job.state
        news = (state.deaths, state.saved_step, job.pauses.pauses, job.is_paused)
        if state.is_over or self._told.get(job.id) != news:
            with self._changed:
                self._told[job.id] = news
                if job.id not in self._began_at:
                    self._began(job.id, self._clock.wall())
                self._unwritten[job.id] = job
                self._changed.notify_all()
        if not state.is_over:  # an end is told once it is written
            self.notify(job.id)

    def _began(self, video_id: str, began_at: float) -> None:
        self._began_at[video_id] = began_at
        self._spent_seconds[video_id] = max(0.0, self._clock.wall() - began_at) - self._clock.monotonic()

    def subscribe(self, video_id: str, on_change: Callable[[], None]) -> Callable[[], None]:
        """Have `on_change` called, from any thread, whenever a job changes; returns what ends that."""
        key = object()
        with self._changed:
            self._listeners.setdefault(video_id, {})[key] = on_change

        def unsubscribe() -> None:
            with self._changed:
                listeners = self._listeners.get(video_id, {})
                listeners.pop(key, None)
                if not listeners:
                    self._listeners.pop(video_id, None)

        return unsubscribe

    def notify(self, video_id: str) -> None:
        """Tell those who listen to a video that it has changed."""
        with self._changed:
            listeners = list(self._listeners.get(video_id, {}).values())
        for listener in listeners:
            listener()

    def write_end(self, video_id: str, state: JobState) -> None:
        """Write down how a job ended, tell it once, and remove what it no longer needs. Raises StoreError, OSError."""
        error, report, folder = state.error, state.report, self._folder.of(video_id)
        is_first = self._store.finish(
            video_id,
            "completed" if error is None else "failed",
            *self._end_and_expiry(),
            None if error is None else as_stored(error),
            None if report is None else msgspec.json.encode(report),
            folder.video.stat().st_size if error is None else 0,
            self._tells_operator,
            state.warnings or None,  # what was known when it was accepted stays
        )
        self._ended(video_id, state, is_first)

    def write_ends(self, video_ids: Collection[str], error: RinglightError) -> None:
        """Write down that all these have failed, at once, and as `write_end`. Raises StoreError."""
        is_told = self._tells_operator
        ended = self._store.batches.fail(video_ids, *self._end_and_expiry(), as_stored(error), is_told)
        for video_id in ended:
            self._ended(video_id, JobState(status="failed", error=error), is_first=True)
            self.notify(video_id)

    def _end_and_expiry(self) -> tuple[float, float | None]:
        """Of a video that ends now."""
        now = self._clock.wall()
        return now, now + self._retention_seconds if self._retention_seconds else None

    def _ended(self, video_id: str, state: JobState, is_first: bool) -> None:
        """An end is written: tell it where it `is_first`, and remove what the video no longer needs."""
        error, report, folder = state.error, state.report, self._folder.of(video_id)
        try:
            ended = self._store.get(video_id)
        except NotFound:  # deleted while it ran
            return folder.remove()
        folder.remove_leftovers(ended.status == "completed")
        if is_first:
            said = "is completed" if error is None else f"failed: {coded(error.code, str(error))}"
            logger.info("%s %s", video_id, said)
            try:
                spent = self._spent_seconds.get(video_id)
                run_seconds = 0.0 if spent is None else self._clock.monotonic() + spent
                self._on_end(View(stored=ended, state=state, report=report, run_seconds=run_seconds))
            except Exception:  # a listener's own; the ends of other jobs must still be written
                logger.exception("a listener of ends failed at %s", video_id)

    def _write_all(self) -> None:
        """The ledger's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unwritten or self._closed)
                unwritten, self._unwritten = self._unwritten, {}
                is_last_time = self._closed
            left = {job.id: job for job in unwritten.values() if not self._try_to_write(job)}
            if is_last_time:
                return
            if left:
                with self._changed:
                    self._unwritten = left | self._unwritten
                    self._changed.wait_for(lambda: self._closed, AGAIN_SECONDS)

    def _try_to_write(self, job: Job) -> bool:
        """Write what another server would have to know of a job, or how it ended."""
        state = job.state
        try:
            if not state.is_over:
                self._mark(job, state, status="in_progress", started_at=self._began_at[job.id], deaths=state.deaths)
                return True
            if state.error is not None or job.pauses.pauses:  # what was seen of its progress stays so
                self._mark(job, state)
            self.write_end(job.id, state)
        except (StoreError, OSError) as error:
            logger.error("the state of %s cannot be written down yet: %s", job.id, error)
            return False
        with self._changed:
            for known in (self._jobs, self._began_at, self._spent_seconds, self._told, self._unwritten):
                known.pop(job.id, None)
            self._changed.notify_all()
        self.notify(job.id)
        return True

    def _mark(self, job: Job, state: JobState, **also: Any) -> None:
        """Write how far a job is, and what it has had of pauses until now."""
        pauses, is_paused = job.pauses, job.is_paused and not state.is_over
        self._store.mark(
            job.id,
            progress=min(99, state.progress),  # 100 is written with its end
            saved_step=state.saved_step,
            pauses=pauses.pauses,
            paused_seconds=pauses.paused_seconds,
            paused_at=self._clock.wall() if is_paused else None,
            **also,
        )


def as_stored(error: RinglightError) -> VideoError:
    """An error as a job keeps it: a request's names the field."""
    if isinstance(error, InvalidRequest):
        field = error.problems[0].field
        return VideoError(code=error.code, message=str(error), param=field, type="invalid_request_error")
    if isinstance(error, Cancelled):
        return VideoError(code=error.code, message=str(error), type="cancelled")
    return VideoError(code=error.code, message=str(error), type="server_error")
