"""The socket to the engine, and what a running job tells and asks through it."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from ringlight.core import messages
from ringlight.core.output import remove_parts


class Corridor:
    """Sends messages from any thread, and sorts what comes in on one of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._cancelled: set[str] = set()
        self._asked_to_leave: dict[str, bool] = {}  # whether at once
        self._in_hand: dict[str, messages.RunJob] = {}
        self.orders: queue.Queue[messages.Order] = queue.Queue()
        threading.Thread(target=self._receive, name="corridor", daemon=True).start()

    def send(self, message: messages.FromWorker) -> None:
        with self._send_lock:
            self._connection.send_bytes(messages.encode(message))

    def is_cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def is_asked_to_leave(self, job_id: str) -> bool:
        """Whether a job should make way, by what came after its turn was ordered."""
        return job_id in self._asked_to_leave

    def is_asked_to_leave_now(self, job_id: str) -> bool:
        """Whether it should do so within a step."""
        return self._asked_to_leave.get(job_id, False)

    def take_up(self, job: messages.RunJob) -> None:
        """From now on there may be part files of this job."""
        self._in_hand[job.job_id] = job

    def put_down(self, job: messages.RunJob) -> None:
        """Nothing is left to do for this job."""
        self._in_hand.pop(job.job_id, None)
        self._cancelled.discard(job.job_id)
        self._asked_to_leave.pop(job.job_id, None)

    def leave(self, last_word: messages.GroupBroken | None = None) -> None:
        """End this process at once, nothing half-written left behind."""
        for job in list(self._in_hand.values()):
            for path in filter(None, (job.output, job.state_file)):
                remove_parts(Path(path), job.job_id)
        if last_word is not None:
            with contextlib.suppress(OSError):  # the engine is gone too
                self.send(last_word)
        os._exit(1)

    def _receive(self) -> None:
        try:
            while True:
                message = messages.to_worker_decoder.decode(self._connection.recv_bytes())
                match message:
                    case messages.Ping(number=number):
                        self.send(messages.Pong(number=number))
                    case messages.CancelJob(job_id=job_id):
                        self._cancelled.add(job_id)
                    case messages.PauseJob(job_id=job_id, now=now):
                        self._asked_to_leave[job_id] = now or self.is_asked_to_leave_now(job_id)
                    case messages.RunJob(job_id=job_id) | messages.ResumeJob(job_id=job_id):
                        self._asked_to_leave.pop(job_id, None)  # what was asked of the turn before is not of this one
                        self.orders.put(message)
                    case messages.DropJob() | messages.Shutdown():
                        self.orders.put(message)
        except (EOFError, OSError, msgspec.DecodeError):
            self.leave()  # the engine is gone, or cannot be understood; nobody waits for what we do
