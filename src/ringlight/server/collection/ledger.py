"""Ledger: follows jobs, writes down how they go and end, and tells whoever listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from ringlight.core.clock import Clock
from ringlight.core.errors import Cancelled, InvalidRequest, NotFound, OutputError, RinglightError, StoreError
from ringlight.core.plain import coded
from ringlight.core.report import RunReport
from ringlight.engine.job_state import JobState
from ringlight.engine.jobs import Job
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import JobStore, StoredJob
from ringlight.server.collection.uploads import Uploads
from ringlight.server.collection.view import UPLOADING, View
from ringlight.wire.video import VideoError

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0  # between two tries to write down how a job ended


class Ledger:
    """Jobs of an engine between their acceptance and the moment when their end is on the disk.

    A thread of its own writes, again and again where the store does not take it: no replica waits for a disk. Where
    videos go to an object store the end of one is written once it is there. Safe to use from any thread.
    """

    def __init__(
        self,
        store: JobStore,
        folder: DataFolder,
        retention_seconds: float,
        on_end: Callable[[View], None],
        tells_operator: bool,
        clock: Clock,
        uploads: Uploads | None = None,
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
        self._uploads = uploads
        self._changed = threading.Condition()  # guards what follows; notified when there is news, or an end is written
        self._jobs: dict[str, Job] = {}
        self._began_at: dict[str, float] = {}
        self._spent_seconds: dict[str, float] = {}  # of those that began: less what a clock that only goes on says
        self._told: dict[str, tuple[int, ...]] = {}  # what follows of a job, as it is written or about to be
        self._unwritten: dict[str, Job] = {}
        self._made: dict[str, JobState] = {}  # those whose videos are on their way to the object store
        self._listeners: dict[str, dict[object, Callable[[], None]]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="ledger", daemon=True)

    def start(self) -> None:
        """Start the thread, once."""
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

    def made(self, video_id: str) -> JobState | None:
        """State of a video that is made, and on its way to the object store."""
        return self._made.get(video_id)

    def is_open(self, video_id: str) -> bool:
        """Whether the end of a video has still to be written by us."""
        return video_id in self._jobs or video_id in self._made

    def follow(self, job: Job, began_at: float | None) -> None:
        """Follow a job that has been accepted; `began_at` is when another server began it, if one did."""
        with self._changed:
            self._jobs[job.id] = job
            if began_at is not None:
                self._began(job.id, began_at)

    def await_end(self, video_id: str, timeout_seconds: float) -> None:
        """Return when its end is written, or after that time, or once only the object store is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: video_id not in self._jobs or video_id in self._made, timeout_seconds)

    def on_change(self, job: Job) -> None:
        """Handle a change of a job. The engine calls this from any of its threads, which do not wait for a disk."""
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
        """Call `on_change`, from any thread, whenever a job changes; returns a function that ends that."""
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

    def write_end(self, video_id: str, state: JobState, stored_bytes: int | None = None) -> None:
        """Write how a job ended, report it once, and remove what it no longer needs. Raises StoreError, OSError.

        `stored_bytes` of a completed one lie in the object store; None: it lies in its folder.
        """
        folder = self._folder.of(video_id)
        in_folder = stored_bytes is None and state.error is None
        if in_folder and not folder.video.exists():  # cancelled or deleted at this moment, or lost
            lost = OutputError("the video was lost from the disk before its end was written")
            state, in_folder = JobState(status="failed", error=lost), False
        error, report = state.error, state.report
        is_first = self._store.finish(
            video_id,
            "completed" if error is None else "failed",
            *self._end_and_expiry(),
            None if error is None else as_stored(error),
            None if report is None else msgspec.json.encode(report),
            folder.video.stat().st_size if in_folder else stored_bytes or 0,
            self._tells_operator,
            state.warnings or None,  # what was known when it was accepted stays
            None if stored_bytes is None or self._uploads is None else self._uploads.url,
        )
        self._ended(video_id, state, is_first)
        if error is not None and video_id in self._made:
            self.forget(video_id)

    def begin_upload(self, video_id: str, state: JobState) -> None:
        """Upload a video that is whole on the disk, and known to be so, before its end is written."""
        assert self._uploads is not None
        self._folder.of(video_id).remove_leftovers(is_completed=True)
        with self._changed:
            self._made[video_id] = msgspec.structs.replace(state, stage=UPLOADING)
            self._changed.notify_all()
        self._uploads.add(video_id)
        self.notify(video_id)

    def take_up(self, stored: StoredJob) -> None:
        """Take over a video that another server has made. Raises StoreError, OSError."""
        report = msgspec.json.decode(self._store.report(stored.id) or b"", type=RunReport)
        state = JobState(status="completed", report=report, warnings=stored.warnings, deaths=stored.deaths)
        with self._changed:
            self._began(stored.id, stored.started_at or stored.created_at)
        if self._uploads is not None:
            return self.begin_upload(stored.id, state)
        self.write_end(stored.id, state)  # the operator wants it here now
        self.forget(stored.id)

    def on_stored(self, video_id: str, outcome: int | RinglightError) -> bool:
        """Record that so many bytes of a video are in the object store, or never will be for this reason.

        False if the video is over or deleted, so that they are not wanted. Raises StoreError, OSError.
        """
        if (state := self._made.get(video_id)) is None:
            return False
        if isinstance(outcome, RinglightError):
            self.write_end(video_id, JobState(status="failed", error=outcome))
        else:
            self.write_end(video_id, state, outcome)
        try:
            is_wanted = self._store.get(video_id).status == "completed"
        except NotFound:
            is_wanted = False
        self.forget(video_id)
        return is_wanted

    def forget(self, video_id: str) -> None:
        """Forget a video of which nothing more is to be written."""
        with self._changed:
            for known in (self._jobs, self._began_at, self._spent_seconds, self._told, self._unwritten, self._made):
                known.pop(video_id, None)
            self._changed.notify_all()
        self.notify(video_id)

    def write_ends(self, video_ids: Collection[str], error: RinglightError) -> None:
        """Write that all these have failed, at once, and as `write_end`. Raises StoreError."""
        is_told = self._tells_operator
        ended = self._store.batches.fail(video_ids, *self._end_and_expiry(), as_stored(error), is_told)
        for video_id in ended:
            self._ended(video_id, JobState(status="failed", error=error), is_first=True)
            self.notify(video_id)

    def _end_and_expiry(self) -> tuple[float, float | None]:
        """End and expiry of a video that ends now, in seconds since 1970; None if it does not expire."""
        now = self._clock.wall()
        return now, now + self._retention_seconds if self._retention_seconds else None

    def _ended(self, video_id: str, state: JobState, is_first: bool) -> None:
        """Report an end that is written if it `is_first`, and remove what the video no longer needs."""
        error, report, folder = state.error, state.report, self._folder.of(video_id)
        try:
            ended = self._store.get(video_id)
        except NotFound:  # deleted while it ran
            return folder.remove()
        folder.remove_leftovers(ended.status == "completed")
        if ended.media_url is not None:
            folder.remove_media()
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
        """Run the ledger's thread."""
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
            if state.error is not None or self._uploads is None:
                self.write_end(job.id, state)
            elif self._note_made(job):
                self.begin_upload(job.id, state)
                return True
            else:  # it was cancelled or deleted at this moment
                self._ended(job.id, state, is_first=False)
        except (StoreError, OSError) as error:
            logger.error("the state of %s cannot be written down yet: %s", job.id, error)
            return False
        self.forget(job.id)
        return True

    def _mark(self, job: Job, state: JobState, **also: Any) -> None:
        """Write the progress of a job, and its pauses until now."""
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

    def _note_made(self, job: Job) -> bool:
        """Record that a video is whole on the disk; False if it is over or deleted. Raises StoreError."""
        state = job.state
        began_at, report = self._began_at[job.id], msgspec.json.encode(state.report)
        now = self._clock.wall()
        return self._store.uploads.note_made(job.id, now, began_at, state.deaths, report, state.warnings)


def as_stored(error: RinglightError) -> VideoError:
    """An error as a job keeps it: a request's names the field."""
    if isinstance(error, InvalidRequest):
        field = error.problems[0].field
        return VideoError(code=error.code, message=str(error), param=field, type="invalid_request_error")
    if isinstance(error, Cancelled):
        return VideoError(code=error.code, message=str(error), type="cancelled")
    return VideoError(code=error.code, message=str(error), type="server_error")
