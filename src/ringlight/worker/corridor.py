"""The socket to the engine, and what a running job tells and asks through it.

Whoever reads it never writes: an engine that is slow to read would not be heard any more, and would wait for just that.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from ringlight.core import messages
from ringlight.core.files import into_place
from ringlight.core.output import remove_parts
from ringlight.worker.scratch import Scratch


class Corridor:
    """Socket to the engine: sends messages from any thread, and sorts incoming ones on a thread of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._cancelled: set[str] = set()
        self._asked_to_leave: dict[str, bool] = {}  # whether at once
        self._expected: set[str] = set()  # jobs of which files have come, and no order yet
        self._in_hand: dict[str, messages.RunJob] = {}
        self._scratch: Scratch | None = None
        self._pings: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.orders: queue.Queue[messages.Order] = queue.Queue()
        threading.Thread(target=self._receive, name="corridor", daemon=True).start()
        threading.Thread(target=self._answer, name="pongs", daemon=True).start()

    def work_in(self, place: str) -> None:
        """Set up a folder of this process in that place, before there is any job; files travel then.

        Raises InvalidInstallation.
        """
        self._scratch = Scratch(place, self.send)

    def send(self, message: messages.FromWorker) -> None:
        with self._send_lock:
            self._connection.send_bytes(messages.encode(message))

    def is_cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def is_asked_to_leave(self, job_id: str) -> bool:
        """Whether a job should be paused, by what came after its turn was ordered."""
        return job_id in self._asked_to_leave

    def is_asked_to_leave_now(self, job_id: str) -> bool:
        """Whether a job should be paused within a step."""
        return self._asked_to_leave.get(job_id, False)

    def take_up(self, job: messages.RunJob) -> None:
        """Register a job, so that its part files are removed if this process ends."""
        self._in_hand[job.job_id] = job

    def put_down(self, job: messages.RunJob) -> None:
        """Forget a job that is done, and its scratch files."""
        self._in_hand.pop(job.job_id, None)
        self._forget(job.job_id)
        if self._scratch is not None:
            self._scratch.clear(job.job_id)

    def dropped(self, job_id: str) -> None:
        """Report that a job is forgotten as the engine wished, also if only files of it were here."""
        self._in_hand.pop(job_id, None)
        if self._scratch is not None:
            self._scratch.clear(job_id)
            self.send(messages.JobDropped(job_id=job_id))

    def putting_in_place(self, job: messages.RunJob) -> Callable[[Iterable[tuple[Path, Path]]], object]:
        """Function that moves the state of this job to its place once it is written."""
        return into_place if self._scratch is None else partial(self._scratch.bring_state, job.job_id)

    def hand_over(self, job: messages.RunJob, written: list[str]) -> list[str]:
        """Bring an output's files to where the engine wants them. Returns their paths there; raises OutputError."""
        return written if self._scratch is None else self._scratch.bring_output(job.job_id, written)

    def close(self) -> None:
        """Close the socket at the end of this process, with no job left."""
        if self._scratch is not None:
            self._scratch.remove()

    def leave(self, last_word: messages.GroupBroken | None = None) -> None:
        """End this process at once, and leave nothing half-written."""
        for job in list(self._in_hand.values()):
            for path in filter(None, (job.output, job.state_file)):
                remove_parts(Path(path), job.job_id)
        self.close()
        if last_word is not None:
            with contextlib.suppress(OSError):  # the engine is gone too
                self.send(last_word)
        os._exit(1)

    def _forget(self, job_id: str) -> None:
        """Drop requests that concern this job, so that they do not reach a later one of this name."""
        self._cancelled.discard(job_id)
        self._asked_to_leave.pop(job_id, None)
        self._expected.discard(job_id)

    def _expect(self, job_id: str) -> None:
        """Expect a turn of a job of which a file has come: from here on a pause is asked of that turn."""
        if job_id not in self._expected:
            self._expected.add(job_id)
            self._asked_to_leave.pop(job_id, None)

    def _begin_turn(self, job_id: str) -> None:
        """Begin a turn of a job: what was asked of the one before is not asked of this one."""
        self._expect(job_id)
        self._expected.discard(job_id)

    def _answer(self) -> None:
        """Answer Pings in a thread."""
        with contextlib.suppress(OSError):  # the engine is gone
            while True:
                self.send(messages.Pong(number=self._pings.get()))

    def _receive(self) -> None:
        try:
            while True:
                self._sort(messages.to_worker_decoder.decode(self._connection.recv_bytes()))
        except (EOFError, OSError, msgspec.DecodeError):
            self.leave()  # the engine is gone, or cannot be understood; nobody waits for what we do

    def _sort(self, message: messages.ToWorker) -> None:
        match message:
            case messages.Ping(number=number):
                self._pings.put(number)
            case messages.FilePart() | messages.PartTaken() if self._scratch is not None:
                if isinstance(message, messages.FilePart):
                    self._expect(message.job_id)
                self._scratch.take(message)
            case messages.CancelJob(job_id=job_id):
                self._cancelled.add(job_id)
                if self._scratch is not None:
                    self._scratch.give_up(job_id)
            case messages.PauseJob(job_id=job_id, now=now):
                self._asked_to_leave[job_id] = now or self.is_asked_to_leave_now(job_id)
            case messages.RunJob():
                self._begin_turn(message.job_id)
                self.orders.put(message if self._scratch is None else self._scratch.here(message))
            case messages.ResumeJob():
                self._begin_turn(message.job_id)
                self.orders.put(message)
            case messages.DropJob(job_id=job_id):
                self._forget(job_id)
                self.orders.put(message)
            case messages.Shutdown():
                self.orders.put(message)
