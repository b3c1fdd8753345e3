"""Uploads of videos to the object store, and removal of deleted ones from it, for as long as it takes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core.clock import Clock
from ringlight.core.errors import InvalidSetting, MediaError, NotFound, OutputError, RinglightError, StoreError
from ringlight.core.plain import plain
from ringlight.server.collection.contents import VARIANTS, made
from ringlight.server.collection.folder import DataFolder, VideoFolder
from ringlight.server.collection.media import MediaStore
from ringlight.server.collection.store import JobStore

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
SWEEP_SECONDS = 3600.0  # between two looks at all that lies in the store
CLOSE_SECONDS = 5.0  # for what is under way when the server ends; the next one does it again

OnStored = Callable[[str, int | RinglightError], bool]
Task = tuple[Literal["store", "remove", "sweep"], str]
SWEEP: Task = ("sweep", "")


class UploadTally(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of uploads to the store since the start, their seconds and bytes, and the number that waits.

    `problem` is why they wait, in words that anybody may read; "" while the store answers.
    """

    uploads: int = 0
    failures: int = 0
    seconds: float = 0.0
    size_bytes: int = 0
    waiting: int = 0
    problem: str = ""


class Uploads:
    """Thread that does one task after another, and if the store is away tries again, with growing pauses.

    A task that failed goes behind the others: where only one video cannot be stored, they still are. Every hour it
    takes out what no video is known of. Safe to use from any thread.
    """

    def __init__(self, media: MediaStore, folder: DataFolder, store: JobStore, clock: Clock) -> None:
        """Check that the store can be used, and reserve the prefix.

        Raises InvalidSetting if that will never be so; a store that is away is waited for.
        """
        self._media = media
        self._folder = folder
        self._store = store
        self._on_stored: OnStored = lambda video_id, outcome: False
        self._clock = clock
        self._is_claimed = False
        self._swept_at = clock.monotonic()
        self._changed = threading.Condition()  # guards what follows
        self._tasks: deque[Task] = deque([SWEEP])
        self._tally = UploadTally()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        try:
            media.check()
            self._make_ours()
        except (MediaError, StoreError) as error:
            self._note_failure(error)

    def start(self, on_stored: OnStored) -> None:
        """Start the thread, once.

        `on_stored` is told that so many bytes of a video are in the store, or why they never will be, and says whether
        it still wants them. It may raise StoreError, and is called again then.
        """
        self._on_stored = on_stored
        self._thread.start()

    def close(self) -> None:
        """End the thread, after what is under way if that is over in some seconds. The next server does what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def add(self, video_id: str) -> None:
        """Upload a video that is whole on the disk."""
        self._add(("store", video_id))

    def remove(self, video_id: str) -> None:
        """Remove all files of a video, when its turn comes."""
        self._add(("remove", video_id))

    def _add(self, task: Task) -> None:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Return when there is nothing to do, or the store is away; False if there is after that time."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._tally.problem) or not self._tasks, timeout_seconds)

    @property
    def url(self) -> str:
        """URL that videos are uploaded to."""
        return self._media.url

    @property
    def tally(self) -> UploadTally:
        with self._changed:
            waiting = sum(kind == "store" for kind, _ in self._tasks)
            return msgspec.structs.replace(self._tally, waiting=waiting)

    def _work(self) -> None:
        """Run the thread."""
        pause_seconds = 0.0
        while (task := self._await_task(pause_seconds)) is not None:
            try:
                self._do(task)
            except Exception as error:  # one video's must not keep the others from being stored
                pause_seconds = min(max(FIRST_PAUSE_SECONDS, 2 * pause_seconds), LONGEST_PAUSE_SECONDS)
                self._note_failure(error, pause_seconds)
                with self._changed:
                    self._tasks.rotate(-1)
            else:
                pause_seconds = 0.0
                self._note_success(task)

    def _await_task(self, pause_seconds: float) -> Task | None:
        """Wait for a task after a pause, and return it; None at the end. It stays the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause_seconds)
            while not self._closed:
                left_seconds = self._swept_at + SWEEP_SECONDS - self._clock.monotonic()
                if left_seconds <= 0 and SWEEP not in self._tasks:
                    self._tasks.append(SWEEP)
                if self._tasks:
                    return self._tasks[0]
                self._changed.wait(left_seconds)
            return None

    def _do(self, task: Task) -> None:
        """Do a task. Raises MediaError, StoreError, InvalidSetting, OSError, and then it is still to be done."""
        self._make_ours()
        match task:
            case "store", video_id:
                self._upload(video_id)
            case "remove", video_id:
                self._remove(video_id)
            case _:
                self._sweep()

    def _make_ours(self) -> None:
        if not self._is_claimed:
            self._media.claim(self._store.uploads.claim(self.url))
            self._is_claimed = True

    def _upload(self, video_id: str) -> None:
        folder, began = self._folder.of(video_id), self._clock.monotonic()
        try:
            size_bytes = self._media.upload(video_id, self._files(folder)) if self._is_kept(video_id) else 0
        except FileNotFoundError:
            self._on_stored(video_id, OutputError("the video was lost from the disk before it was stored"))
            return self.remove(video_id)
        if not self._on_stored(video_id, size_bytes):  # cancelled, or deleted
            return self.remove(video_id)
        with self._changed:
            self._tally = msgspec.structs.replace(
                self._tally,
                uploads=self._tally.uploads + 1,
                seconds=self._tally.seconds + self._clock.monotonic() - began,
                size_bytes=self._tally.size_bytes + size_bytes,
            )
        return None

    def _remove(self, video_id: str) -> None:
        if not self._is_kept(video_id):
            self._media.remove(video_id)

    def _files(self, folder: VideoFolder) -> dict[Path, str]:
        """Files of a video to upload, the video itself last: if that is in the store, all are."""
        found = {}
        for variant in reversed(VARIANTS):
            try:
                found[made(folder, variant)] = VARIANTS[variant].media_type
            except OutputError as error:
                logger.error("%s will have no %s: %s", folder.path.name, variant, error)
        return found

    def _sweep(self) -> None:
        """Remove what a dead server left: objects of unknown videos, and files that are stored."""
        for video_id in self._media.video_ids():
            if not self._is_kept(video_id):
                logger.info("%s is removed from the object store: no such video is known", video_id)
                self._media.remove(video_id)
        for video_id in self._folder.finished():
            with contextlib.suppress(NotFound):
                if self._store.get(video_id).media_url is not None:
                    self._folder.of(video_id).remove_media()
        self._swept_at = self._clock.monotonic()

    def _is_kept(self, video_id: str) -> bool:
        """Whether what is stored of a video, or is to be, is wanted. Raises StoreError."""
        try:
            return self._store.get(video_id).status != "failed"
        except NotFound:
            return False

    def _note_failure(self, error: Exception, pause_seconds: float = 0.0) -> None:
        problem, detail = "", ""
        match error:
            case MediaError():
                problem, detail = str(error), error.detail
            case InvalidSetting():
                problem = "the place in the object store belongs to another server"
            case StoreError() | OSError():  # not the object store's
                pass
            case _:
                logger.error("uploads met what they do not know", exc_info=error)
        with self._changed:
            self._tally = msgspec.structs.replace(self._tally, failures=self._tally.failures + 1, problem=problem)
        said = f"{error}: {detail}" if detail else str(error)
        again = f"tried again in {plain(pause_seconds)} s" if pause_seconds else "it is waited for"
        logger.error("object store %s: %s; %d videos wait; %s", self.url, said, self.tally.waiting, again)

    def _note_success(self, task: Task) -> None:
        with self._changed:
            self._tasks.remove(task)
            was_away = bool(self._tally.problem)
            self._tally = msgspec.structs.replace(self._tally, problem="")
            self._changed.notify_all()
        if was_away:
            logger.info("object store %s: it answers again", self.url)
