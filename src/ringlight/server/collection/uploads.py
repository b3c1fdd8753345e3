"""Uploads: brings videos that are made into the object store, and takes out of it what is deleted, for as long as it
takes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

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


class UploadTally(msgspec.Struct, frozen=True, kw_only=True):
    """What was brought into the store since the start, what took how long, and what waits. `problem` is why it has to,
    as anybody may know it; "" while the store answers."""

    uploads: int = 0
    failures: int = 0
    seconds: float = 0.0
    size_bytes: int = 0
    waiting: int = 0
    problem: str = ""


class Uploads:
    """A thread that does one thing after another, and where the store is away the same again, with growing pauses.

    What failed goes behind the others that wait: where only one video cannot be stored, they still are. Every hour it
    takes out what no video is known of. Safe to use from any thread.
    """

    def __init__(self, media: MediaStore, folder: DataFolder, store: JobStore, clock: Clock) -> None:
        """See that the store can be used, and have the prefix. Raises InvalidSetting where that will never be so; one
        that is away is waited for."""
        self._media = media
        self._folder = folder
        self._store = store
        self._on_stored: OnStored = lambda video_id, outcome: False
        self._clock = clock
        self._is_claimed = False
        self._swept_at: float | None = None
        self._changed = threading.Condition()  # guards what follows
        self._arriving: deque[str] = deque()
        self._leaving: deque[str] = deque()
        self._tally = UploadTally()
        self._is_busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        try:
            media.check()
            self._make_ours()
        except (MediaError, StoreError) as error:
            self._note_failure(error)

    def start(self, on_stored: OnStored) -> None:
        """Begin, once.

        `on_stored` is told that so many bytes of a video are in the store, or why they never will be, and says whether
        it still wants them. It may raise StoreError, and is called again then.
        """
        self._on_stored = on_stored
        self._thread.start()

    def close(self) -> None:
        """End, after what is under way if that is over in some seconds. The next server does what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def add(self, video_id: str) -> None:
        """A video is whole on the disk: store it."""
        with self._changed:
            self._arriving.append(video_id)
            self._changed.notify_all()

    def remove(self, video_id: str) -> None:
        """Remove all that there is of a video, when its turn comes."""
        with self._changed:
            self._leaving.append(video_id)
            self._changed.notify_all()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Return when there is nothing to do, or the store is away; False if there is after that time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._tally.problem) or not (self._is_busy or self._arriving or self._leaving),
                timeout_seconds,
            )

    @property
    def url(self) -> str:
        """Where they go."""
        return self._media.url

    @property
    def tally(self) -> UploadTally:
        with self._changed:
            return msgspec.structs.replace(self._tally, waiting=len(self._arriving))

    def _work(self) -> None:
        """The thread."""
        pause_seconds = 0.0
        while self._await_work(pause_seconds):
            try:
                self._do_next()
            except (MediaError, StoreError, InvalidSetting, OSError) as error:
                pause_seconds = min(max(FIRST_PAUSE_SECONDS, 2 * pause_seconds), LONGEST_PAUSE_SECONDS)
                self._note_failure(error, pause_seconds)
            else:
                pause_seconds = 0.0
                self._note_success()

    def _await_work(self, pause_seconds: float) -> bool:
        """After a pause wait until there is something to do; False at the end."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed, pause_seconds)
            while not self._closed:
                if self._arriving or self._leaving or (left_seconds := self._seconds_to_sweep()) <= 0:
                    self._is_busy = True
                    return True
                self._changed.wait(left_seconds)
            return False

    def _seconds_to_sweep(self) -> float:
        if self._swept_at is None:
            return 0.0
        return self._swept_at + SWEEP_SECONDS - self._clock.monotonic()

    def _do_next(self) -> None:
        """Do one thing. Raises MediaError, StoreError, OSError, and then it is still to be done."""
        self._make_ours()
        for line, act in ((self._arriving, self._upload), (self._leaving, self._remove)):
            with self._changed:
                video_id = line[0] if line else None
            if video_id is None:
                continue
            try:
                act(video_id)
            except BaseException:
                with self._changed:
                    line.rotate(-1)
                raise
            with self._changed:
                line.remove(video_id)
            return
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
        """What is stored of a video, the video itself last: where that is there, all is."""
        found = {}
        for variant in reversed(VARIANTS):
            try:
                found[made(folder, variant)] = VARIANTS[variant].media_type
            except OutputError as error:
                logger.error("%s will have no %s: %s", folder.path.name, variant, error)
        return found

    def _sweep(self) -> None:
        """Remove what a server left that died: objects of videos that nobody knows, and files that are stored."""
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
        problem = str(error) if isinstance(error, MediaError) else type(error).__name__
        with self._changed:
            tally = self._tally = msgspec.structs.replace(
                self._tally, failures=self._tally.failures + 1, waiting=len(self._arriving), problem=problem
            )
        again = f"tried again in {plain(pause_seconds)} s" if pause_seconds else "it is waited for"
        detail = getattr(error, "detail", "")
        logger.error(
            "object store %s: %s%s; %d videos wait, %s",
            self._media.url,
            error,
            f": {detail}" if detail else "",
            tally.waiting,
            again,
        )

    def _note_success(self) -> None:
        with self._changed:
            was_away = bool(self._tally.problem)
            self._tally = msgspec.structs.replace(self._tally, problem="")
        if was_away:
            logger.info("object store %s: it answers again", self._media.url)
