"""Scratch: the folder in which rank 0 works where its machine need not have the engine's files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec

from ringlight.core.courier import Courier, NotTaken
from ringlight.core.errors import InvalidInstallation
from ringlight.core.messages import Carried, FileKind, RunJob
from ringlight.core.output import frame_path
from ringlight.worker.failures import not_written

NAME = "ringlight-rank-"  # how folders begin that the next start may remove


class Scratch:
    """Folder of this process alone, with a folder a job, and the transfer of files from the engine and to it.

    The next process that starts removes it, if this one cannot. Its name has the machine's: it stands in messages.
    """

    def __init__(self, place: str, send: Callable[[Carried], None]) -> None:
        """Make the folder in this place, and remove folders of processes that are gone. Raises InvalidInstallation."""
        try:
            self.path, self._lock = new_folder(Path(place))
        except OSError as error:
            raise InvalidInstallation(
                f"the scratch folder {place} on {socket.gethostname()} cannot be used: {error.strerror}; "
                "make it a folder that workers can write to"
            ) from None
        self._asked: dict[str, RunJob] = {}
        self._courier = Courier(send, self._place)

    def here(self, order: RunJob) -> RunJob:
        """Order of a job as it runs here: with paths in this folder."""
        self._asked[order.job_id] = order
        folder = self._of(order.job_id)
        output = folder / "output" / Path(order.output).name
        with contextlib.suppress(OSError):  # whoever writes there is told
            output.parent.mkdir(parents=True, exist_ok=True)
        return msgspec.structs.replace(
            order,
            output=str(output),
            state_file=order.state_file and str(folder / "state"),
            continues=order.continues and str(folder / "source"),
        )

    def take(self, message: Carried) -> None:
        """Handle a message about a file from the engine."""
        self._courier.take(message)

    def give_up(self, job_id: str) -> None:
        """Stop a job's incoming files, because the job is to end."""
        self._courier.give_up(job_id)

    def bring_state(self, job_id: str, moves: Iterable[tuple[Path, Path]]) -> None:
        """Send a state to the engine's machine, where `into_place` would move it elsewhere. Raises OSError."""
        ((written, _),) = moves
        if not self._courier.carry(job_id, "state", [written]):
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        written.unlink()

    def bring_output(self, job_id: str, written: list[str]) -> list[str]:
        """Bring the files of an output to the engine's machine. Returns their paths there; raises OutputError."""
        asked = self._asked[job_id]
        try:
            self._courier.carry(job_id, "output", [Path(path) for path in written])
        except NotTaken as error:
            raise not_written(error, asked) from None
        return [str(frame_path(Path(asked.output), number)) for number in range(len(written))]

    def clear(self, job_id: str) -> None:
        """Remove all files of a job, also of what is still on its way here."""
        self._asked.pop(job_id, None)
        self._courier.forget(job_id)
        shutil.rmtree(self._of(job_id), ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder. The process ends now."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _of(self, job_id: str) -> Path:
        return self.path / f"job-{quote(job_id, safe='')}"

    def _place(self, job_id: str, kind: FileKind, number: int) -> Path:
        """Path for a file that the engine sends."""
        if kind == "output" or number:
            raise FileNotFoundError(errno.ENOENT, f"no {kind} is taken here")
        path = self._of(job_id) / kind
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def new_folder(place: Path) -> tuple[Path, int]:
    """Make a new folder in this one, with a descriptor that holds a lock on it until the process ends. Raises OSError.

    It has its name only once it is locked: those with such a name and without a lock are left by processes that died.
    """
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{NAME}*"):
        with contextlib.suppress(OSError):  # somebody works there, or it is another user's
            os.close(locked(left))
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{NAME}{socket.gethostname()}-", dir=place))
    lock = locked(made)
    return made.rename(made.with_name(made.name[1:])), lock


def locked(folder: Path) -> int:
    """Lock a folder; its descriptor has the lock. Raises OSError if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
