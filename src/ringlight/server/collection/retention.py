"""Retention: what a server looks after by itself: what is to be forgotten, and what has been."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ringlight.core.errors import NotFound, StoreError
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import JobStore, StoredJob

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
UNANSWERED_SECONDS = 60.0  # from a job's creation, after which its acceptance is over


class Retention:
    """A thread that removes videos at their `expires_at`, and the oldest where all need more than `bound_bytes`.

    It also takes up jobs whose acceptance was written down although the store could not say so: nobody else would.
    """

    def __init__(
        self,
        store: JobStore,
        folder: DataFolder,
        bound_bytes: int,
        remove: Callable[[str], None],
        take_up: Callable[[StoredJob], None],
    ) -> None:
        """`bound_bytes` 0: no bound. `remove` forgets a video by its id; `take_up` runs a job that nobody follows."""
        self._store = store
        self._folder = folder
        self._bound_bytes = bound_bytes
        self._remove = remove
        self._take_up = take_up
        self._looked_at = 0.0  # all folders that have not changed since are known
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sweep_all, name="retention", daemon=True)

    def start(self) -> None:
        """Begin, once."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> None:
        """Take up what was left behind, and remove what is to go now. Raises StoreError, OSError."""
        for stored in self._store.unfinished():
            if stored.created_at < time.time() - UNANSWERED_SECONDS:
                self._take_up(stored)
        self._looked_at = self._folder.remove_strangers(self._is_known, self._looked_at)
        for stored in self._store.expired(time.time()):
            self._remove(stored.id)
        excess = self._store.total_output_bytes() - self._bound_bytes if self._bound_bytes else 0
        for stored in self._store.oldest_finished() if excess > 0 else []:
            if excess <= 0:
                break
            self._remove(stored.id)
            excess -= stored.output_bytes

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
