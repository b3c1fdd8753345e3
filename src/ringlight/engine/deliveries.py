"""Deliveries: files of jobs between the engine's disk and a rank 0 that works in a scratch folder of its machine."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ringlight.core.courier import Courier, NotTaken
from ringlight.core.errors import OutputError, WorkerError
from ringlight.core.messages import Carried, FileKind, FilePart, JobDropped, PartTaken, RankPlace, RunJob
from ringlight.core.output import frame_path

logger = logging.getLogger(__name__)


class Deliveries:
    """Files that travel for the jobs of one replica; none if rank 0 has no scratch folder.

    It lives from a start of the ranks to their end. Files that it sends are written where the jobs want them, and
    nowhere else.
    """

    def __init__(self, place: RankPlace, send: Callable[[Carried], None]) -> None:
        """Start without jobs. `place` is rank 0's, and `send` sends it a message."""
        self._place = place
        self._courier = Courier(send, self._path_of)
        self._jobs: dict[str, RunJob] = {}
        self._dropping: set[str] = set()
        self._changed = threading.Condition()
        self._is_closed = False

    def bring(self, job: RunJob) -> None:
        """Send a job's inputs before it is ordered: the video that it continues, and the state that it resumes from.

        What cannot be read is left to the rank to miss, as is all once the rank is gone. Raises OutputError where the
        rank has no room for it.
        """
        if not self._place.scratch:
            return
        with self._changed:  # what is on its way of an earlier turn may be newer than what is here
            self._changed.wait_for(lambda: job.job_id not in self._dropping or self._is_closed)
            self._jobs[job.job_id] = job
        wanted: tuple[tuple[FileKind, str], ...] = (("source", job.continues), ("state", job.state_file))
        for kind, path in wanted:
            if path:
                self._carry(job.job_id, kind, Path(path))

    def give_up(self, job_id: str) -> None:
        """Stop sending the files of a job that is to end."""
        if self._place.scratch:
            self._courier.give_up(job_id)

    def drop(self, job_id: str) -> None:
        """Note that the rank will be told to forget a job; until it answers, files of it may still come."""
        if self._place.scratch:
            with self._changed:
                self._dropping.add(job_id)

    def take(self, message: Carried | JobDropped) -> None:
        """Handle a message from the rank."""
        if isinstance(message, FilePart | PartTaken):
            return self._courier.take(message)
        self.end(message.job_id)
        with self._changed:
            self._dropping.discard(message.job_id)
            self._changed.notify_all()

    def end(self, job_id: str) -> None:
        """End a job: remove half-written files of it, and take no more."""
        self._jobs.pop(job_id, None)
        self._courier.forget(job_id)

    def close(self) -> None:
        """Close after the rank is gone: nobody waits for it any more, and half-written files are removed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._courier.close()

    def _carry(self, job_id: str, kind: FileKind, path: Path) -> None:
        try:
            self._courier.carry(job_id, kind, [path])
        except WorkerError:  # which shows elsewhere too
            return
        except NotTaken as error:
            where = f"the scratch folder {self._place.scratch} on {self._place.address}"
            raise OutputError(f"{where}: {error.strerror}; make room there, and ask again") from None
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("%s: not used, for it cannot be read: %s", path, error.strerror)

    def _path_of(self, job_id: str, kind: FileKind, number: int) -> Path:
        """Path for a file that the rank sends."""
        job = self._jobs.get(job_id)
        if job is not None and kind == "state" and job.state_file and number == 0:
            return Path(job.state_file)
        if job is not None and kind == "output":
            path = frame_path(Path(job.output), number)
            if number == 0 or path != Path(job.output):
                return path
        raise FileNotFoundError(errno.ENOENT, "nobody waits for it")
