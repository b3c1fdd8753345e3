"""Ledger: follows jobs, writes down how they go and end, and tells whoever listens."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ringlight.core.errors import InvalidRequest, NotFound, RinglightError, StoreError
from ringlight.core.report import RunReport
from ringlight.engine.jobs import Job
from ringlight.server.folder import DataFolder
from ringlight.server.store import JobStore, StoredError
from ringlight.server.view import View

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0  # between two tries to write down how a job ended


class Ledger:
    """The jobs of an engine between their acceptance and the moment when their end is on the disk.

    Ends are written by a thread of its own, again and again where the store does not take them: no replica waits for a
    disk. Safe to use from any thread.
    """

    def __init__(
        self, store: JobStore, folder: DataFolder, retention_seconds: float, on_end: Callable[[View], None]
    ) -> None:
        """`on_end` is called once for every job that ends, after that is written, from the ledger's thread."""
        self._store = store
        self._folder = folder
        self._retention_seconds = retention_seconds
        self._on_end = on_end
        self._changed = threading.Condition()  # guards what follows; notified when there is an end, or one is written
        self._jobs: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        self._told: dict[str, tuple[int, int]] = {}
        self._listeners: dict[str, dict[object, Callable[[], None]]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._write_ends, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write down ends, once."""
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

    def follow(self, job: Job) -> None:
        """A job has been accepted."""
        with self._changed:
            self._jobs[job.id] = job

    def await_end(self, video_id: str, timeout_seconds: float) -> None:
        """Return when its end is written, or after that time."""
        with self._changed:
            self._changed.wait_for(lambda: video_id not in self._jobs, timeout_seconds)

    def on_change(self, job: Job) -> None:
        """Called by the engine from any of its threads."""
        if job.state.is_over:
            with self._changed:
                self._ended[job.id] = job
                self._changed.notify_all()
            return
        self._mark(job)
        self.notify(job.id)

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

    def write_end(self, video_id: str, error: RinglightError | None, report: RunReport | None) -> None:
        """Write down how a job ended, tell it once, and remove what it no longer needs. Raises StoreError, OSError."""
        now, folder, kept_seconds = time.time(), self._folder.of(video_id), self._retention_seconds
        is_first = self._store.finish(
            video_id,
            "completed" if error is None else "failed",
            now,
            now + kept_seconds if kept_seconds else None,
            None if error is None else as_stored(error),
            None if report is None else msgspec.json.encode(report),
            folder.video.stat().st_size if error is None else 0,
        )
        try:
            ended = self._store.get(video_id)
        except NotFound:  # deleted while it ran
            return folder.remove()
        folder.remove_leftovers(ended.status == "completed")
        if is_first:
            try:
                self._on_end(View(stored=ended, report=report))
            except Exception:  # a listener's own; the ends of other jobs must still be written
                logger.exception("a listener of ends failed at %s", video_id)

    def _mark(self, job: Job) -> None:
        """Write down that a job has begun, was lost or saved: what another server would have to know."""
        state = job.state
        told, before = (state.deaths, state.saved_step), self._told.get(job.id)
        if told == before:
            return
        self._told[job.id] = told
        started: dict[str, Any] = {"started_at": time.time()} if before is None else {}
        with contextlib.suppress(StoreError):  # the next change or its end is written, and until then we know better
            self._store.mark(job.id, status="in_progress", deaths=state.deaths, progress=state.progress, **started)

    def _write_ends(self) -> None:
        """The ledger's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._closed)
                ended, is_last_time = list(self._ended.values()), self._closed
            written = [self._try_to_end(job) for job in ended]
            if is_last_time:
                return
            if not all(written):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, AGAIN_SECONDS)

    def _try_to_end(self, job: Job) -> bool:
        try:
            self.write_end(job.id, job.state.error, job.state.report)
        except (StoreError, OSError) as error:
            logger.error("%s is over, but that cannot be written down yet: %s", job.id, error)
            return False
        with self._changed:
            for known in (self._ended, self._jobs, self._told):
                known.pop(job.id, None)
            self._changed.notify_all()
        self.notify(job.id)
        return True


def as_stored(error: RinglightError) -> StoredError:
    """An error as a job keeps it: a request's names the field."""
    if isinstance(error, InvalidRequest):
        field = error.problems[0].field
        return StoredError(code=error.code, message=str(error), param=field, type="invalid_request_error")
    return StoredError(code=error.code, message=str(error))
