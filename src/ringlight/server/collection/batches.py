"""Batches: many requests at once. They are stored whole, and enter the queue bit by bit behind what others ask for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

import msgspec

from ringlight.core.errors import Cancelled, NotFound, StoreError
from ringlight.engine.jobs import Job
from ringlight.server.collection.paging import Order
from ringlight.server.collection.stored import StoredBatch, StoredJob, StoredRow
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import Draft
from ringlight.server.http.http_error import HttpError

logger = logging.getLogger(__name__)

MOST_AHEAD = 8  # jobs of batches in the queue, for each replica: enough to choose from, and few beside a queue's size
LOOK_SECONDS = 0.5  # between two looks at what waits, as long as something does
AGAIN_SECONDS = 5.0  # where the store does not answer
PAGE = 256  # jobs that are read at a time
APART_SECONDS = 1e-6  # between two creations, so that a batch is made, and listed, in its order


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it stands at one moment, and its requests."""

    stored: StoredBatch
    rows: Sequence[StoredRow]


class Batches:
    """Batches of a server, each its owner's. Safe to use from any thread.

    Each request is a job of `videos`. It is stored when the batch is accepted, and a thread queues it when there is
    room: that of the queue's size is left to others. What has a deadline is queued at once, for the queue knows of it.
    """

    def __init__(self, videos: Videos) -> None:
        """Batches of these videos; `start` begins to queue those that wait."""
        self.videos = videos
        self._most_ahead = MOST_AHEAD * videos.engine.size.most
        self._queued: dict[str, Job] = {}  # of batches, from when they were queued until they are computed
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._feed_all, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread, once, after the videos have started."""
        self._news.set()
        self._thread.start()

    def close(self) -> None:
        """End the thread, before the videos are closed."""
        self._closing.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()

    # What clients ask

    def add(self, name: str, drafts: Mapping[str, Draft], owner: str, retry_failed: bool = False) -> BatchView:
        """Accept requests, by keys that tell which are the same; all of them are on the disk when this returns.

        Where the owner has a batch of this name they are added to it, but for those that it has. With `retry_failed`
        one that failed is made anew. The view has these requests, in their order. Raises QueueFull, StoreError.
        """
        videos, store = self.videos, self.videos.store.batches
        if videos.is_draining:
            raise HttpError(503, "unavailable", "the server is stopping; send it again to the next one")
        known, new = store.known(owner, name, retry_failed), {}
        now = videos.clock.wall()
        batch = StoredBatch(id=f"batch_{uuid4().hex}", owner=owner, name=name, created_at=now)
        try:
            for number, (key, draft) in enumerate(drafts.items()):
                if key not in known:
                    new[key] = self._new(draft, owner, now + number * APART_SECONDS)
                    self._keep_pictures(new[key], draft)
            batch, ids = store.add(batch, new, retry_failed)
        except StoreError:  # they may be stored all the same; if not, a sweep finds the folders to be nobody's
            raise
        except OSError as error:
            self._remove_folders(new.values())
            raise StoreError(f"{videos.folder.path} cannot be written to: {error.strerror or error}") from error
        except BaseException:
            self._remove_folders(new.values())
            raise
        self._remove_folders(stored for key, stored in new.items() if ids[key] != stored.id)  # sent twice at once
        self._news.set()
        rows = {row.job_id: row for row in store.rows(batch.id)}
        asked = [ids[key] for key in drafts]
        return self._view(batch, [rows.get(job_id, StoredRow(job_id=job_id)) for job_id in asked])  # deleted by now

    def get(self, batch_id: str, owner: str | None) -> BatchView:
        """Get a batch. Raises NotFound, also for a batch of another owner; None is anybody."""
        store = self.videos.store.batches
        return self._view(store.get(batch_id, owner), store.rows(batch_id))

    def list(self, owner: str | None, after: str | None, limit: int, order: Order) -> tuple[list[BatchView], bool]:
        """List a page of batches, and whether there are more. Raises NotFound for an unknown `after`."""
        store = self.videos.store.batches
        found, has_more = store.list(owner, after, limit, order)
        return [self._view(batch, store.rows(batch.id)) for batch in found], has_more

    def cancel(self, batch_id: str, owner: str | None) -> BatchView:
        """Stop what is not over of a batch. Raises NotFound."""
        videos, batch = self.videos, self.get(batch_id, owner)
        unfinished = [row.job_id for row in batch.rows if row.status in ("queued", "in_progress")]
        with videos.feeding:
            waiting = [job_id for job_id in unfinished if videos.ledger.job(job_id) is None]
            videos.ledger.write_ends(waiting, Cancelled("cancelled"))
        for job_id in set(unfinished).difference(waiting):
            try:
                videos.cancel(job_id, owner)
            except NotFound:  # deleted at this moment
                continue
        return self.get(batch_id, owner)

    def delete(self, batch_id: str, owner: str | None) -> None:
        """Forget a batch and all its videos; what is not over is stopped. Raises NotFound."""
        batch = self.get(batch_id, owner)
        with self.videos.feeding:
            self.videos.store.batches.delete(batch_id)
            for row in batch.rows:
                self.videos.drop(row.job_id)

    def _view(self, batch: StoredBatch, rows: Sequence[StoredRow]) -> BatchView:
        """View of a batch, with errors as clients may read them."""
        tell = self.videos.tell
        told = [
            row
            if row.error is None
            else msgspec.structs.replace(row, error=msgspec.structs.replace(row.error, message=tell(row.error.message)))
            for row in rows
        ]
        return BatchView(stored=batch, rows=told)

    # From asked to queued

    def _new(self, draft: Draft, owner: str, created_at: float) -> StoredJob:
        """Job as it waits; its time limits count from when it is queued."""
        videos, asked_seconds = self.videos, draft.timeout_seconds
        return msgspec.structs.replace(
            videos.new(draft, owner),
            created_at=created_at,
            deadline_at=None if asked_seconds is None else created_at + asked_seconds,
            warnings=videos.engine.door.warnings(draft.request, draft.asked_size),
        )

    def _keep_pictures(self, stored: StoredJob, draft: Draft) -> None:
        if draft.request.pictures:
            folder = self.videos.folder.of(stored.id)
            folder.make()
            folder.write_pictures(draft.request.pictures)
            folder.sync()

    def _remove_folders(self, jobs: Iterable[StoredJob]) -> None:
        for stored in jobs:
            self.videos.folder.of(stored.id).remove()

    def _feed_all(self) -> None:
        """Run the thread."""
        pause_seconds: float | None = None
        while not self._closing.is_set():
            self._news.wait(pause_seconds)
            self._news.clear()
            try:
                pause_seconds = LOOK_SECONDS if self.feed() else None
            except (StoreError, OSError) as error:
                logger.error("requests of batches cannot be queued yet: %s", error)
                pause_seconds = AGAIN_SECONDS

    def feed(self) -> bool:
        """Queue what there is room for; returns whether something still waits. Raises StoreError."""
        store, ledger = self.videos.store.batches, self.videos.ledger
        while not self._closing.is_set() and not self.videos.is_draining:
            self._queued = {job_id: job for job_id, job in self._queued.items() if not job.state.is_computed}
            page = store.waiting(limit := len(self._queued) + PAGE)
            outside = [stored for stored in page if ledger.job(stored.id) is None]
            for stored in outside:
                if not self._has_room(stored):
                    return True
                self._queue(stored.id)
            if len(page) < limit:
                return False
        return False

    def _has_room(self, stored: StoredJob) -> bool:
        """Whether a job may enter the queue now: of those that have its priority, or a higher one, few are there."""
        ahead = [job for job in self._queued.values() if job.submission.priority >= stored.priority]
        return stored.deadline_at is not None or len(ahead) < self._most_ahead

    def _queue(self, job_id: str) -> None:
        """Queue a job, unless it is over, deleted, or in the queue already."""
        videos, timeout_seconds = self.videos, self.videos.settings.job_timeout
        with videos.feeding:
            if videos.ledger.job(job_id) is not None:
                return
            try:
                stored = videos.store.get(job_id)  # after the ledger, which forgets a job once its end is stored
            except NotFound:
                return
            if stored.status != "queued":
                return
            if timeout_seconds and stored.deadline_at is None:
                deadline_at = videos.clock.wall() + timeout_seconds
                videos.store.mark(job_id, deadline_at=deadline_at)
                stored = msgspec.structs.replace(stored, deadline_at=deadline_at)
            if (job := videos.take_up(stored)) is not None:
                self._queued[job_id] = job
        videos.ledger.notify(job_id)
