"""Videos: the collection that the API serves. What it has acknowledged is on the disk, and ends in exactly one way."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from ringlight.core.clock import Clock
from ringlight.core.config import EngineConfig
from ringlight.core.errors import Cancelled, InvalidSetting, NotFound, RinglightError, StoreError
from ringlight.core.layout import ParallelLayout
from ringlight.core.plain import counted
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.settings import ServeSettings
from ringlight.core.sizes import AskedSize
from ringlight.engine.engine import Engine
from ringlight.engine.job_state import JobState, Status
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.families.table import model_examples
from ringlight.server.collection.contents import Contents
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.ledger import Ledger
from ringlight.server.collection.media import MediaStore
from ringlight.server.collection.paging import Order
from ringlight.server.collection.retention import Retention
from ringlight.server.collection.store import Idempotency, JobStore, StoredJob
from ringlight.server.collection.uploads import Uploads
from ringlight.server.collection.view import Draft, View
from ringlight.server.http.discretion import Discretion
from ringlight.server.http.http_error import HttpError, VideoNotReady

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 1.0  # to wait for a job's end, so that the answer to a cancel can tell it

OnEnd = Callable[[View], None]


def engine_of(settings: ServeSettings, config: EngineConfig, clock: Clock | None = None) -> Engine:
    """Make a server's engine; nothing is started. Raises InvalidCheckpoint, InvalidLayout, InvalidSetting."""
    return Engine(
        config,
        settings.limits,
        num_replicas=settings.replicas,
        queue_size=settings.queue_size,
        scheduling=settings.scheduling,
        max_slowdown=settings.max_slowdown,
        supervised=True,
        defaults=settings.defaults,
        clock=clock,
    )


class Known(Exception):
    """Job that was accepted before under an idempotency key."""

    def __init__(self, stored: StoredJob) -> None:
        self.stored = stored


class Videos:
    """Videos of a server, each its owner's. Safe to use from any thread.

    A job is stored before it is acknowledged, and its end is stored before it is told: what a client has seen stays so,
    whatever dies. What was not over when a server ended goes on when the next one is opened.
    """

    def __init__(
        self,
        settings: ServeSettings,
        config: EngineConfig,
        on_end: OnEnd = lambda view: None,
        clock: Clock | None = None,
    ) -> None:
        """Open store and folder, and resume what was left; `start` starts the workers.

        `on_end` is called once for every job that ends, from a thread. Raises InvalidSetting, InvalidCheckpoint,
        InvalidLayout, StoreError.
        """
        self.settings = settings
        self.clock = clock or Clock()
        self.engine = engine_of(settings, config, self.clock)
        self.tell = Discretion.of(settings, config, self.engine.checkpoint)
        self.defaults, self.limits, self.spec = self.engine.defaults, self.engine.limits, self.engine.spec
        self.examples = model_examples(self.engine.checkpoint)
        self.model_names = tuple(dict.fromkeys(settings.served_model_name)) or (self.spec.name,)
        media = MediaStore.open(settings.media_url) if settings.media_url else None
        self.folder = DataFolder.open(settings.data_dir)
        self.store = JobStore(settings.store_url or self.folder.store_url, clock=self.clock)
        if any(self.folder.finished()) and not any(self.store.count_by_status().values()):
            raise InvalidSetting(
                f"data-dir {settings.data_dir} holds videos that the database does not know; "
                "name the database that does in --store-url, or another folder"
            )
        self.is_draining = False
        self.feeding = threading.Lock()  # while a job outside of the queue enters it or ends
        kept_seconds, tells_operator = settings.retention_seconds, bool(settings.webhook_url)
        self.contents = Contents(self.folder, media)
        self.uploads = None if media is None else Uploads(media, self.folder, self.store, self.clock)
        self.ledger = Ledger(self.store, self.folder, kept_seconds, on_end, tells_operator, self.clock, self.uploads)
        bound_bytes = settings.retention_bytes
        self.retention = Retention(self.store, self.folder, bound_bytes, self._remove, self._adopt, self.clock)

    def start(self) -> None:
        """Start the workers, and resume what was not over when the last server ended."""
        logger.info("layout %s", self.engine.choice.reason)
        self.ledger.start()
        if self.uploads is not None:
            self.uploads.start(self.ledger.on_stored)
        self.engine.start(wait=False)
        unfinished = self.store.unfinished()
        if unfinished:
            logger.info("going on with %s, not over when the last server ended", counted(len(unfinished), "video"))
        for stored in unfinished:
            self.take_up(stored)
        self.retention.start()

    def close(self) -> None:
        """End the workers. What is not over stays in the store, to be resumed."""
        self.is_draining = True
        self.retention.close()
        self.engine.close(abandon=True)
        if self.uploads is not None:
            self.uploads.close()
        self.ledger.close()
        with contextlib.suppress(StoreError):  # it is only to be told
            logger.info("stopped; kept for the next server: %s", counted(len(self.store.unfinished()), "video"))
        self.store.close()
        self.folder.close()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait for jobs that have a turn, and for uploads if the store answers; False if some are not over in time."""
        is_drained = self.engine.drain(timeout_seconds)
        return is_drained and (self.uploads is None or self.uploads.wait_until_idle(timeout_seconds))

    # What clients ask

    def complete(self, prompt: str, **fields: Any) -> VideoRequest:
        """Complete a request from what is given, the defaults of server and checkpoint, and the model card."""
        return self.engine.door.complete(prompt, round_sizes=self.settings.round_sizes, **fields)

    def with_loras(self, request: VideoRequest) -> VideoRequest:
        """Complete a request with the files of its LoRAs and of those that are always on. Raises InvalidRequest."""
        return self.engine.door.with_loras(request)

    def create(self, draft: Draft, owner: str, idempotency: Idempotency | None = None) -> View:
        """Accept a video; it is on the disk when this returns.

        Raises InvalidRequest, InvalidLayout, QueueFull, StoreError, IdempotencyConflict.
        """
        if self.is_draining:
            raise HttpError(503, "unavailable", "the server is stopping; send it again to the next one")
        if idempotency is not None and (earlier := self.store.find(owner, idempotency)) is not None:
            return self._view(earlier)
        new = self.new(draft, owner)
        folder = self.folder.of(new.id)
        try:
            folder.make()
            if draft.continues is not None:
                self.contents.keep_source(self.store.get(draft.continues), folder)
            job = self._submit(
                new,
                draft.request,
                lambda stored: self._accept(stored, draft, idempotency),
                draft.asked_size,
            )
        except Known as known:
            folder.remove()
            return self._view(known.stored)
        except StoreError:  # it may be stored all the same; a sweep takes it up, or finds the folder to be nobody's
            raise
        except OSError as error:  # the disk is full, say
            folder.remove()
            raise StoreError(f"{self.folder.path} cannot be written to: {error.strerror or error}") from error
        except BaseException:
            folder.remove()
            raise
        return self._view(self.store.get(job.id))

    def get(self, video_id: str, owner: str | None) -> View:
        """Get a video. Raises NotFound, also for a video of another owner; None is anybody."""
        stored = self.store.get(video_id, owner)
        if stored.completed_at is None and self.ledger.job(stored.id) is None:  # its end was written meanwhile
            stored = self.store.get(video_id, owner)
        return self._view(stored, with_report=True)

    def list(
        self,
        owner: str | None,
        after: str | None,
        limit: int,
        order: Order,
        status: Status | None = None,
        words: str = "",
    ) -> tuple[list[View], bool]:
        """List a page of videos as JobStore.list does. Raises NotFound for an unknown `after`."""
        jobs, has_more = self.store.list(owner, after, limit, order, status, words)
        return [self._view(stored) for stored in jobs], has_more

    def cancel(self, video_id: str, owner: str | None) -> View:
        """Stop a job; a finished one stays as it is. Raises NotFound, StoreError.

        Its end is written before this returns, also where its ranks have still to come to the end of a step.
        """
        stored = self.store.get(video_id, owner)
        if stored.batch_id is not None:
            with self.feeding:
                if self.ledger.job(stored.id) is None:
                    self.ledger.write_ends([stored.id], Cancelled("cancelled"))
        if (job := self.ledger.job(stored.id)) is not None:
            self.engine.cancel(job)
            self.ledger.await_end(stored.id, CANCEL_SECONDS)
        if self.ledger.is_open(stored.id):
            self.ledger.write_end(stored.id, JobState(status="failed", error=Cancelled("cancelled")))
            self.ledger.notify(stored.id)
        return self.get(video_id, owner)

    def delete(self, video_id: str, owner: str | None) -> None:
        """Forget a video and remove its files; a job that is not over is stopped. Raises NotFound."""
        stored = self.store.get(video_id, owner)
        self._remove(stored.id)

    def report(self, video_id: str, owner: str | None) -> RunReport:
        """Report of a video on its time and memory. Raises NotFound before the video is completed."""
        report = self._report(self.store.get(video_id, owner))
        if report is None:
            raise VideoNotReady(f"{video_id} has no report: it is not completed")
        return report

    def subscribe(self, video_id: str, owner: str | None, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change`, from any thread, when a job changes; returns a function that ends that. Raises NotFound."""
        stored = self.store.get(video_id, owner)
        return self.ledger.subscribe(stored.id, on_change)

    # From asked to queued

    def check(self, draft: Draft) -> None:
        """Raise InvalidRequest or InvalidLayout unless `create` would take it, as far as its queue has room."""
        self.engine.check(draft.request, str(self.folder.path / "video.mp4"), draft.layout)

    def new(self, draft: Draft, owner: str) -> StoredJob:
        """Build the job of a draft as it will be stored."""
        request, now = draft.request, self.clock.wall()
        layout = draft.layout or self.engine.layouts.of(request)
        timeouts = [seconds for seconds in (draft.timeout_seconds, self.settings.job_timeout) if seconds]
        return StoredJob(
            id=f"video_{uuid4().hex}",
            owner=owner,
            status="queued",
            request=without_bytes(request),
            has_image=request.image is not None,
            model=self.model_names[0],
            layout=layout.name,
            priority=draft.priority,
            user=draft.user,
            webhook_url=draft.webhook_url,
            remixed_from=draft.remixed_from,
            continues=draft.continues,
            frames_before=draft.frames_before,
            seconds=draft.seconds,
            created_at=now,
            deadline_at=now + min(timeouts) if timeouts else None,
        )

    def _accept(self, stored: StoredJob, draft: Draft, idempotency: Idempotency | None) -> None:
        """Accept a job that there is room for: it is on the disk when this returns."""
        folder = self.folder.of(stored.id)
        folder.write_pictures(draft.request.pictures)
        folder.sync()
        kept = self.store.add(stored, idempotency)
        if kept.id != stored.id:
            raise Known(kept)

    def _submit(
        self,
        stored: StoredJob,
        request: VideoRequest,
        accept: Callable[[StoredJob], None] | None = None,
        asked_size: AskedSize = (None, None),
    ) -> Job:
        """Queue a job; without `accept` it is one that was accepted before."""
        folder, settings = self.folder.of(stored.id), self.settings
        created_at, deadline_at = stored.created_at, stored.deadline_at
        spent_seconds = 0.0 if accept else max(0.0, self.clock.wall() - created_at)  # also while no server ran

        def take_in(job: Job) -> None:
            if accept is not None:
                accept(msgspec.structs.replace(stored, warnings=job.state.warnings))
            self.ledger.follow(job, stored.started_at)

        submission = Submission(
            job_id=stored.id,
            priority=stored.priority,
            client=stored.owner,
            timeout_seconds=None if deadline_at is None else deadline_at - created_at,
            spent_seconds=spent_seconds,
            keep=Keep(
                state_file=str(folder.state), save_seconds=settings.save_seconds, max_repeats=settings.max_repeats
            ),
            continues="" if stored.continues is None else str(folder.source),
            preview_seconds=settings.preview_seconds,
            state=None if accept else stored.known,
            pauses=stored.pauses_at(self.clock.wall()),
            counted=stored.batch_id is None,
            asked_size=asked_size,
        )
        layout = ParallelLayout.parse(stored.layout)
        return self.engine.submit(request, str(folder.video), self.ledger.on_change, layout, submission, accept=take_in)

    def take_up(self, stored: StoredJob) -> Job | None:
        """Queue a job that was accepted before; None if it cannot be made any more, and has failed."""
        try:
            if stored.made_at is not None and self.folder.of(stored.id).video.exists():
                self.ledger.take_up(stored)
                return None
            self.folder.of(stored.id).path.mkdir(exist_ok=True)
            layout = ParallelLayout.parse(stored.layout)
            if layout.num_ranks != self.engine.choice.layout.num_ranks:  # another layout is asked for now
                layout_name = self.engine.layouts.of(stored.request).name
                stored = msgspec.structs.replace(stored, layout=layout_name, saved_step=0)
                self.store.mark(stored.id, layout=layout_name, saved_step=0)
            request = msgspec.structs.replace(stored.request, **self.contents.pictures(stored))
            return self._submit(stored, request)
        except (RinglightError, OSError) as error:  # what it began with is gone, or is over today's limits
            logger.warning("%s cannot be gone on with: %s", stored.id, error)
            reason = error if isinstance(error, RinglightError) else StoreError(str(error))
            self.ledger.write_end(stored.id, JobState(status="failed", error=reason))
            return None

    def _adopt(self, stored: StoredJob) -> None:
        """Take up a job that is not over, unless it is followed or has ended meanwhile."""
        if self.is_draining or self.ledger.is_open(stored.id):
            return
        with contextlib.suppress(NotFound):
            stored = self.store.get(stored.id)
            if stored.completed_at is None and not self.ledger.is_open(stored.id):
                logger.warning("%s was accepted although the database did not say so; it is queued now", stored.id)
                self.take_up(stored)

    def _remove(self, video_id: str) -> None:
        """Forget a job: first what names it, then its files, which a running job may be writing."""
        with self.feeding:
            self.store.delete(video_id)
            self.drop(video_id)

    def drop(self, video_id: str) -> None:
        """Stop the job of a video that the store has forgotten, and remove its files."""
        if (job := self.ledger.job(video_id)) is not None and self.ledger.made(video_id) is None:
            self.engine.cancel(job)
        else:
            self.folder.of(video_id).remove()
            self.ledger.forget(video_id)
        if self.uploads is not None:
            self.uploads.remove(video_id)
        self.ledger.notify(video_id)

    # What is shown

    def _view(self, stored: StoredJob, with_report: bool = False) -> View:
        if stored.error is not None:  # the store keeps it in full, for the operator
            told = msgspec.structs.replace(stored.error, message=self.tell(stored.error.message))
            stored = msgspec.structs.replace(stored, error=told)
        is_over = stored.status in ("completed", "failed")
        job = None if is_over else self.ledger.job(stored.id)  # which has it for a moment after its end is written
        if not is_over and (made := self.ledger.made(stored.id)) is not None:
            return View(stored=stored, state=made, queue_position=0)
        if job is None:
            return View(stored=stored, report=self._report(stored) if with_report else None)
        return View(
            stored=stored,
            state=job.state,
            live_pauses=job.pauses,
            planned_reason=job.plan.layout_reason,
            queue_position=self.engine.position(job),
            eta_seconds=self.engine.eta_seconds(job),
        )

    def _report(self, stored: StoredJob) -> RunReport | None:
        encoded = self.store.report(stored.id) if stored.has_report else None
        if encoded is None:
            return None
        report = msgspec.json.decode(encoded, type=RunReport)
        return msgspec.structs.replace(report, outputs=[Path(output).name for output in report.outputs])


def without_bytes(request: VideoRequest) -> VideoRequest:
    """Request as it stands in the store, without its pictures, which are in the folder.

    Of the last one nothing is left but that there is one; of the first the job says it.
    """
    return msgspec.structs.replace(request, image=None, last_image=None if request.last_image is None else b"")
