"""Retention: what a server looks after by itself: what is to be forgotten, and what has been."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ringlight.core.clock import Clock
from ringlight.core.errors import NotFound, StoreError
from ringlight.core.plain import counted
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import JobStore, StoredJob

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
UNANSWERED_SECONDS = 60.0  # from the first sight of a job, after which its acceptance is over
JUMP_SECONDS = 5.0  # what a clock that runs wrong loses or gains between two sweeps is far less
GRACE_SECONDS = 3600.0  # for what expired while no server ran: by then somebody has set a clock that starts wrong


class Retention:
    """Thread that removes videos at their `expires_at`, and the oldest if all need more than `bound_bytes`.

    It also takes up jobs whose acceptance was written down although the store could not say so: nobody else would.

    What is deleted is gone, and the wall's clock may be wrong. So each sweep holds it against one that only goes on:
    where the wall's was set meanwhile, nothing is removed by its age, and every video keeps the time that it had left.
    At the start there is nothing to hold it against: what is over by then is removed an hour later.
    """

    def __init__(
        self,
        store: JobStore,
        folder: DataFolder,
        bound_bytes: int,
        remove: Callable[[str], None],
        take_up: Callable[[StoredJob], None],
        clock: Clock,
    ) -> None:
        """Prepare the thread.

        `bound_bytes` 0: no bound. `remove` forgets a video by its id; `take_up` runs a job that nobody follows.
        """
        self._store = store
        self._folder = folder
        self._bound_bytes = bound_bytes
        self._remove = remove
        self._take_up = take_up
        self._clock = clock
        self._last: tuple[float, float] | None = None  # what both clocks said at the last sweep
        self._waiting_since: dict[str, float] = {}  # jobs that are not over, by when they were first seen
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sweep_all, name="retention", daemon=True)

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> None:
        """Take up what was left behind, and remove what is to go now. Raises StoreError, OSError."""
        now = self._clock.monotonic()
        self._take_up_forgotten(now)
        self._folder.remove_strangers(self._is_known, now)
        self._remove_expired(self._clock.wall(), now)
        excess = self._store.total_output_bytes() - self._bound_bytes if self._bound_bytes else 0
        for stored in self._store.oldest_finished() if excess > 0 else []:
            if excess <= 0:
                break
            self._remove(stored.id)
            excess -= stored.output_bytes

    def _take_up_forgotten(self, now: float) -> None:
        unfinished = self._store.unfinished()
        self._waiting_since = {stored.id: self._waiting_since.get(stored.id, now) for stored in unfinished}
        for stored in unfinished:
            if now - self._waiting_since[stored.id] >= UNANSWERED_SECONDS:
                self._take_up(stored)

    def _remove_expired(self, wall: float, now: float) -> None:
        """Remove expired videos, unless this is the first sweep, or the wall clock was set since the last one."""
        if self._last is None:
            self._store.rebase(wall)
            if late := self._store.spare(wall, GRACE_SECONDS):
                logger.warning(
                    "%s expired while no server ran; removed in %.0f s", counted(late, "video"), GRACE_SECONDS
                )
            self._last = wall, now
            return
        jump_seconds = (wall - self._last[0]) - (now - self._last[1])
        if abs(jump_seconds) > JUMP_SECONDS:
            logger.warning(
                "the clock was set by %+.0f s; videos and jobs keep the time that they had left", jump_seconds
            )
            self._store.rebase(wall, jump_seconds)
            self._last = wall, now
            return
        self._last = wall, now
        for stored in self._store.expired(wall):
            self._remove(stored.id)

    def _sweep_all(self) -> None:
        while not self._closing.is_set():
            try:
                self.sweep()
            except (StoreError, OSError) as error:
                logger.error("looking after the videos has to wait: %s", error)
            self._closing.wait(SWEEP_SECONDS)

    def _is_known(self, video_id: str) -> bool:
        try:
            return bool(self._store.get(video_id))
        except NotFound:
            return False
        except StoreError:
            return True  # it may be
