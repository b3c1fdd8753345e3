"""Scaling: the thread that keeps as many replicas as an engine's queue asks for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ringlight.core.clock import Clock
from ringlight.core.replicas import ReplicaRange
from ringlight.engine.queue import JobQueue
from ringlight.engine.runner import Runner
from ringlight.engine.runners import Runners
from ringlight.planner.sizing import LOOK_SECONDS, FleetSize

logger = logging.getLogger(__name__)


class Scaling:
    """Controller of the number of replicas.

    It looks once a second, and whenever a job comes: adds what is wanted at once, and dismisses one at a time.
    """

    def __init__(
        self,
        asked: ReplicaRange,
        queue: JobQueue,
        runners: Runners,
        clock: Clock,
        until_written: Callable[[Runner], None] = lambda runner: None,
    ) -> None:
        """Prepare the thread. `until_written` returns once a replica's output is written, or the wait is over."""
        self._asked = asked
        self._size = FleetSize(asked)
        self._queue = queue
        self._runners = runners
        self._clock = clock
        self._until_written = until_written
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="scaling", daemon=True)

    @property
    def wanted(self) -> int:
        """Number of replicas that the engine aims for."""
        return self._size.wanted

    def start(self) -> None:
        """Start the thread, once; with a fixed number of replicas there is nothing to do."""
        if not self._asked.is_fixed:
            self._thread.start()

    def wake(self) -> None:
        """Look at once, because a job has arrived."""
        self._news.set()

    def stop(self) -> None:
        """Stop adding and dismissing replicas, except for those on their way."""
        self._stopping.set()
        self._news.set()

    def close(self) -> None:
        """End the thread, before the runners are closed."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Add and dismiss replicas as the queue asks for now."""
        before = self._size.wanted
        wanted = self._size.look(self._clock.monotonic(), self._queue.rests(), self._queue.start_seconds)
        if wanted != before:
            logger.info("%d replicas are wanted, %d are there", wanted, len(self._runners))
        while len(self._runners) < wanted:
            self._runners.add()
        if len(self._runners) > wanted:
            self._runners.dismiss_one(self._queue, self._until_written)

    def _look_on(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            try:
                self.look()
            except Exception:  # whatever it is, the next look may fare better
                logger.exception("the number of replicas stays as it is")
            self._news.wait(LOOK_SECONDS)
