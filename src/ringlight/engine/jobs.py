"""Job: one request on its way, folded from the messages of a worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from ringlight.core import messages
from ringlight.core.errors import RinglightError, from_code
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest

logger = logging.getLogger(__name__)

Status = Literal["queued", "in_progress", "completed", "failed"]

# Shares of a whole run, for a progress that never falls; denoising takes most of it.
DENOISING_SHARE = 90


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job at one moment. `step_seconds` is the last step's."""

    status: Status = "queued"
    stage: str = ""
    step: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    frames_done: int = 0
    num_frames: int = 0
    report: RunReport | None = None
    error: RinglightError | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed")

    @property
    def progress(self) -> int:
        """0 to 100; 100 only when completed."""
        if self.status == "completed":
            return 100
        denoised = DENOISING_SHARE * self.step // self.num_steps if self.num_steps else 0
        decoded = (99 - DENOISING_SHARE) * self.frames_done // self.num_frames if self.num_frames else 0
        return denoised + decoded

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of denoising that remain at the pace of the last step; None before the first."""
        return (self.num_steps - self.step) * self.step_seconds if self.step else None


def fold(state: JobState, message: messages.JobMessage) -> JobState:
    """The state after a message of the worker. A job that is over stays as it is."""
    if state.is_over:
        return state
    change = msgspec.structs.replace
    match message:
        case messages.StageStarted(stage=stage):
            return change(state, status="in_progress", stage=stage)
        case messages.StepFinished(step=step, num_steps=num_steps, seconds=seconds):
            return change(state, step=step, num_steps=num_steps, step_seconds=seconds)
        case messages.FramesDecoded(num_done=num_done, num_frames=num_frames):
            return change(state, frames_done=num_done, num_frames=num_frames)
        case messages.JobCompleted(report=report):
            return change(state, status="completed", report=report)
        case messages.JobFailed(code=code, message=text, problems=problems):
            return change(state, status="failed", error=from_code(code, text, problems))


class Job:
    """A handle on one submitted request. Safe to use from any thread."""

    def __init__(
        self,
        job_id: str,
        request: VideoRequest,
        layout: ParallelLayout,
        output: str,
        on_change: Callable[[Job], None] | None,
    ) -> None:
        self.id = job_id
        self.request = request
        self.layout = layout
        self.output = output
        self.created_at = time.time()
        self._state = JobState()
        self._changed = threading.Condition()
        self._on_change = on_change

    @property
    def state(self) -> JobState:
        return self._state

    def wait(self, timeout_seconds: float | None = None) -> RunReport:
        """Block until the job is over. Returns its report, raises its error, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state.is_over, timeout_seconds):
                raise TimeoutError(f"job {self.id} is not over after {timeout_seconds} s")
        if self._state.error is not None:
            raise self._state.error
        assert self._state.report is not None
        return self._state.report

    def receive(self, message: messages.JobMessage) -> None:
        """Fold a message of the worker into the job and tell whoever waits."""
        with self._changed:
            before, self._state = self._state, fold(self._state, message)
            self._changed.notify_all()
        if self._on_change is not None and self._state is not before:
            try:
                self._on_change(self)
            except BaseException:  # a listener's own; the worker's messages must still be read
                logger.exception("a listener of job %s failed", self.id)

    def fail(self, error: RinglightError) -> None:
        """End the job with an error that did not come from a worker's message."""
        self.receive(messages.JobFailed(job_id=self.id, code=error.code, message=str(error)))
