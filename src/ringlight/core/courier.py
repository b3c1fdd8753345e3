"""Courier: files of jobs that travel to another machine, as messages beside all others on one connection."""

from __future__ import annotations

import contextlib
import errno
import itertools
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ringlight.core.errors import WorkerError
from ringlight.core.files import into_place
from ringlight.core.messages import Carried, FileKind, FilePart, PartTaken
from ringlight.core.output import part_path

PART_BYTES = 2**18
MOST_ON_THEIR_WAY = 8  # parts that are not answered yet: what the other side may have to keep in its memory

Place = Callable[[str, FileKind, int], Path]
"""Where the file of this number of a job belongs on this machine. Raises OSError where nobody waits for it."""


class NotTaken(OSError):
    """Error of the machine at the other end, which could not write a file. Number and text are its system's."""


class Parcel:
    """Files on their way to the other end."""

    def __init__(self, number: int, job_id: str, kind: FileKind, files: Sequence[Path]) -> None:
        self.number, self.job_id, self.kind = number, job_id, kind
        self.unanswered = 0
        self.problem: NotTaken | None = None
        self.is_given_up = False
        self._files = files

    @property
    def is_settled(self) -> bool:
        """Whether no more of it is to be sent."""
        return self.is_given_up or self.problem is not None

    def parts(self) -> Iterator[FilePart]:
        """Yield all parts in order. Raises OSError."""
        checksum = 0
        for file, path in enumerate(self._files):
            with path.open("rb") as content:
                for offset in itertools.count(0, PART_BYTES):
                    part = content.read(PART_BYTES)
                    if offset and not part:
                        break
                    checksum = zlib.crc32(part, checksum)
                    yield self._part(file, offset=offset, content=part)
        yield self._part(len(self._files), checksum=in_words(checksum))

    def _part(self, file: int, offset: int = 0, content: bytes = b"", checksum: str = "") -> FilePart:
        return FilePart(
            parcel=self.number,
            job_id=self.job_id,
            kind=self.kind,
            file=file,
            offset=offset,
            content=content,
            checksum=checksum,
        )


class Arrival:
    """Parcel from the other end, of which parts have come. They are written beside their places, under hidden names."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._moves: list[tuple[Path, Path]] = []
        self._file: BinaryIO | None = None
        self._offset = self._checksum = 0

    def add(self, part: FilePart, place: Place) -> None:
        """Write the part that follows. Raises OSError."""
        if part.file == len(self._moves) and part.offset == 0:
            self._close()
            path = place(part.job_id, part.kind, part.file)
            beside = part_path(path, part.job_id)
            self._file, self._offset = beside.open("wb"), 0
            self._moves.append((beside, path))
        if self._file is None or (part.file, part.offset) != (len(self._moves) - 1, self._offset):
            raise OSError(errno.EIO, "a part was lost on the way")
        self._file.write(part.content)
        self._offset += len(part.content)
        self._checksum = zlib.crc32(part.content, self._checksum)

    def end(self, checksum: str) -> None:
        """Move all files to their places, once they are on the disk. Raises OSError."""
        self._close()
        if in_words(self._checksum) != checksum:
            raise OSError(errno.EIO, "damaged on the way")
        into_place(self._moves)

    def discard(self) -> None:
        """Remove all that was written."""
        with contextlib.suppress(OSError):  # what is left to write has no place
            self._close()
        for beside, _ in self._moves:
            beside.unlink(missing_ok=True)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Courier:
    """End of a connection: carries files from any thread, and writes those that come in on a thread of its own.

    Each part is answered once it is written, and few are on their way at a time: nobody keeps more than those in
    memory, and other messages go between them. The one thread that reads the connection hands over what comes (`take`),
    and never waits there.
    """

    def __init__(self, send: Callable[[Carried], None], place: Place) -> None:
        self._send, self._place = send, place
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._leaving: dict[int, Parcel] = {}
        self._ending: set[str] = set()  # jobs of which nobody wants what they go on from
        self._num_on_their_way = 0
        self._is_closed = False
        self._came: queue.Queue[FilePart | None] = queue.Queue()
        self._writing = threading.Lock()
        self._arriving: dict[int, Arrival] = {}
        self._thread: threading.Thread | None = None

    def carry(self, job_id: str, kind: FileKind, files: Sequence[Path]) -> bool:
        """Send files, and return once they are in their places on the other machine's disk.

        False if they were given up, or the connection is gone. Raises OSError of reading them, NotTaken, and what
        sending raises.
        """
        parcel = Parcel(next(self._numbers), job_id, kind, files)
        with self._changed:
            parcel.is_given_up = self._is_closed or (job_id in self._ending and kind != "output")
            self._leaving[parcel.number] = parcel
        try:
            for part in parcel.parts():
                if not self._has_room(parcel):
                    return False
                self._post(part)
            return self._has_come(parcel)
        finally:
            with self._changed:
                del self._leaving[parcel.number]

    def give_up(self, job_id: str) -> None:
        """Stop sending the files that this job resumes from, because it is to end. An output is still sent."""
        with self._changed:
            self._ending.add(job_id)
            for parcel in self._leaving.values():
                parcel.is_given_up |= parcel.job_id == job_id and parcel.kind != "output"
            self._changed.notify_all()

    def take(self, message: Carried) -> None:
        """Handle a message from the other end."""
        if isinstance(message, FilePart):
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="courier", daemon=True)
                self._thread.start()
            return self._came.put(message)
        with self._changed:
            self._num_on_their_way -= 1
            parcel = self._leaving.get(message.parcel)
            if parcel is not None:
                parcel.unanswered -= 1
                if message.errno and parcel.problem is None:  # the first one is the cause of the others
                    parcel.problem = NotTaken(message.errno, message.problem)
            self._changed.notify_all()

    def forget(self, job_id: str) -> None:
        """Forget a job that is over: remove those of its files that have not come whole."""
        with self._changed:
            self._ending.discard(job_id)
        with self._writing:
            for number in [number for number, arrival in self._arriving.items() if arrival.job_id == job_id]:
                self._arriving.pop(number).discard()

    def close(self) -> None:
        """Close this end after the connection is gone: senders need not wait, and incomplete files are removed."""
        with self._changed:
            self._is_closed = True
            for parcel in self._leaving.values():
                parcel.is_given_up = True
            self._changed.notify_all()
        if self._thread is not None:
            self._came.put(None)
            self._thread.join()
        for arrival in self._arriving.values():
            arrival.discard()

    def _has_room(self, parcel: Parcel) -> bool:
        """Wait until there is room on the way for a part of a parcel. Returns whether to continue; raises NotTaken."""
        with self._changed:
            self._changed.wait_for(lambda: parcel.is_settled or self._num_on_their_way < MOST_ON_THEIR_WAY)
            if not parcel.is_settled:
                self._num_on_their_way += 1
                parcel.unanswered += 1
        return self._is_wanted(parcel)

    def _post(self, part: FilePart) -> None:
        try:
            self._send(part)
        except BaseException:  # it will not be answered
            with self._changed:
                self._num_on_their_way -= 1
                self._changed.notify_all()
            raise

    def _has_come(self, parcel: Parcel) -> bool:
        """Wait until all parts of a parcel are answered. Returns whether it is there; raises NotTaken."""
        with self._changed:
            self._changed.wait_for(lambda: parcel.is_settled or not parcel.unanswered)
        return self._is_wanted(parcel)

    def _is_wanted(self, parcel: Parcel) -> bool:
        if parcel.problem is not None:
            raise parcel.problem
        return not parcel.is_given_up

    def _write_all(self) -> None:
        """Run the thread that writes what has come, part by part."""
        while (part := self._came.get()) is not None:
            taken = PartTaken(parcel=part.parcel)
            with self._writing:
                try:
                    self._write(part)
                except Exception as error:  # whatever it is, the other end waits for an answer
                    taken = refusal(part, error)
                    if (arrival := self._arriving.pop(part.parcel, None)) is not None:
                        arrival.discard()
            with contextlib.suppress(OSError, WorkerError):  # the other end is gone, which shows elsewhere
                self._send(taken)

    def _write(self, part: FilePart) -> None:
        """Write a part. Raises OSError, also for the rest of a parcel that was refused or forgotten."""
        if part.file == 0 and part.offset == 0 and part.parcel not in self._arriving:
            self._arriving[part.parcel] = Arrival(part.job_id)
        arrival = self._arriving.get(part.parcel)
        if arrival is None:
            raise FileNotFoundError(errno.ENOENT, "nobody waits for it")
        if not part.checksum:
            return arrival.add(part, self._place)
        arrival.end(part.checksum)
        del self._arriving[part.parcel]


def refusal(part: FilePart, error: Exception) -> PartTaken:
    """The answer to a part that could not be written."""
    number, words = errno.EIO, f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        number, words = error.errno or errno.EIO, error.strerror or words
    return PartTaken(parcel=part.parcel, errno=number, problem=words)


def in_words(checksum: int) -> str:
    """Checksum as eight hexadecimal digits."""
    return f"{checksum:08x}"
