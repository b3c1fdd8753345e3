"""Job: one request on its way, folded from the messages of a worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec.structs import replace

from ringlight.core import messages
from ringlight.core.clock import Clock
from ringlight.core.errors import Cancelled, DeadlineExceeded, RinglightError, from_code
from ringlight.core.layout import ParallelLayout
from ringlight.core.plain import plain
from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.sizes import AskedSize
from ringlight.core.warning import Warnings
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction

logger = logging.getLogger(__name__)

Status = Literal["queued", "in_progress", "completed", "failed"]

OUTPUT = "Output"  # the stage in which ranks are free for the next job
DECODING = "Decoding"  # the stage from which on a job makes way for none
PAUSED = "Paused"  # the stage of a job that has made way for another, until its ranks say what they do for it
RECOVERING = "Recovering"  # the stage of a job whose workers died, until others take it up
LEAST_SHARE = 0.01
DENOISING_SHARE = 0.9  # of a whole run, where nothing better is known


class WorkersLost(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of a job died under it, and it will be repeated."""

    job_id: str


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A replica of this name takes the job up."""

    job_id: str
    replica: str


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """The replica no longer keeps a paused job: it is resumed from saved state, with any replica."""

    job_id: str


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """Number of times that jobs were paused, and seconds that they waited for their next turns."""

    pauses: int = 0
    paused_seconds: float = 0.0

    def __add__(self, other: Pauses) -> Pauses:
        return Pauses(pauses=self.pauses + other.pauses, paused_seconds=self.paused_seconds + other.paused_seconds)

    def __sub__(self, other: Pauses) -> Pauses:
        return Pauses(pauses=self.pauses - other.pauses, paused_seconds=self.paused_seconds - other.paused_seconds)


JobEvent = messages.JobMessage | WorkersLost | Taken | Released


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of a job. `step_seconds` is the last step's.

    `saved_step` is the step from which a repeat would go on, `deaths` how often workers died under the job, `replica`
    the one that took it last, `preview` a JPEG after `preview_step` steps. `denoising_share` is the part of the whole
    time that denoising is expected to take, `furthest` the highest progress that was told. `warnings` say where the
    video is not what was asked.
    """

    status: Status = "queued"
    stage: str = ""
    step: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    frames_done: int = 0
    num_frames: int = 0
    saved_step: int = 0
    deaths: int = 0
    preview: bytes | None = None
    preview_step: int = 0
    replica: str = ""
    denoising_share: float = DENOISING_SHARE
    furthest: int = 0
    warnings: Warnings = ()
    report: RunReport | None = None
    error: RinglightError | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is completed or has failed."""
        return self.status in ("completed", "failed")

    @property
    def is_computed(self) -> bool:
        """Whether the ranks are done with it: they encode its last frames, or it is over."""
        return self.is_over or self.stage == OUTPUT

    @property
    def may_pause(self) -> bool:
        """Whether it can still pause for another, once ranks are at it."""
        return not self.is_computed and self.stage != DECODING

    @property
    def progress(self) -> int:
        """Percentage from 0 to 100, never falling; 100 only when completed."""
        return 100 if self.status == "completed" else self.furthest

    @property
    def eta_seconds(self) -> float | None:
        """Seconds that remain of its own turns, up to its end, at the pace of the last step; None before the first."""
        if not self.step_seconds:
            return None
        after = (1 / self.denoising_share - 1) * self.num_steps * self.step_seconds
        if self.num_frames:
            after *= 1 - self.frames_done / self.num_frames
        return (self.num_steps - self.step) * self.step_seconds + after


def fold(state: JobState, event: JobEvent) -> JobState:
    """Fold an event into a state. A job that is over stays as it is."""
    if state.is_over:
        return state
    after = _fold(state, event)
    return replace(after, furthest=max(state.furthest, _percent(after)))


def _percent(state: JobState) -> int:
    """Percentage of the steps and frames that were reported, at most 99."""
    denoised = state.step / state.num_steps if state.num_steps else 0.0
    decoded = state.frames_done / state.num_frames if state.num_frames else 0.0
    return min(99, int(100 * (state.denoising_share * denoised + (1 - state.denoising_share) * decoded)))


def _fold(state: JobState, event: JobEvent) -> JobState:
    match event:
        case messages.StageStarted(stage=stage):
            return replace(state, status="in_progress", stage=stage)
        case messages.Warned(warning=warning):  # by a run that is repeated once more
            return state if warning in state.warnings else replace(state, warnings=(*state.warnings, warning))
        case messages.StepFinished(step=step, num_steps=num_steps, seconds=seconds):
            return replace(state, step=step, num_steps=num_steps, step_seconds=seconds)
        case messages.StateSaved(step=step):
            return replace(state, saved_step=step)
        case messages.JobPaused(step=step):
            return replace(state, stage=PAUSED, step=step)
        case messages.PreviewMade(step=step, picture=picture):
            return replace(state, preview=picture, preview_step=step)
        case messages.FramesDecoded(num_done=num_done, num_frames=num_frames):
            return replace(state, frames_done=num_done, num_frames=num_frames)
        case messages.Computed():
            return replace(state, stage=OUTPUT)
        case Taken(replica=replica):
            return replace(state, status="in_progress", replica=replica)
        case Released():
            return replace(state, stage=PAUSED, step=state.saved_step)
        case WorkersLost():
            return replace(
                state, stage=RECOVERING, step=state.saved_step, frames_done=0, num_frames=0, deaths=state.deaths + 1
            )
        case messages.JobCompleted(report=report):
            whole = replace(report, warnings=state.warnings)
            return replace(state, status="completed", report=whole, preview=None)
        case messages.JobFailed(code=code, message=text, problems=problems):
            return replace(state, status="failed", error=from_code(code, text, problems), preview=None)


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """Policy for surviving workers: where a job's state is saved and how often, and how often it may be repeated."""

    state_file: str
    save_seconds: float = 5.0
    max_repeats: int = 2


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a job beside the request itself.

    `priority`: higher goes first. `client` is whose share of the replicas it uses. A job fails if it is not over
    `timeout_seconds` after it is submitted, less the `spent_seconds` of them that are gone; this is measured, and no
    wall clock is asked. `continues`, `preview_seconds`: as in messages.RunJob. `state` is what is known already of a
    job that was accepted before, and `pauses` what it had of them; it has a place whatever the queue's size. One that
    is not `counted` leaves all places to others. `asked_size` is what was asked where the request has another.
    """

    job_id: str = ""
    priority: int = 0
    client: str = ""
    timeout_seconds: float | None = None
    spent_seconds: float = 0.0
    keep: Keep | None = None
    continues: str = ""
    preview_seconds: float = 0.0
    state: JobState | None = None
    pauses: Pauses = Pauses()
    counted: bool = True
    asked_size: AskedSize = (None, None)


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """Time at which a job fails if it is not over: `at` on a monotonic clock. `given_seconds` is its whole time."""

    given_seconds: float
    at: float

    @classmethod
    def of(cls, submission: Submission, clock: Clock) -> Deadline | None:
        """Deadline of a job that is submitted now; None if its time is unlimited."""
        given_seconds = submission.timeout_seconds
        if given_seconds is None:
            return None
        return cls(given_seconds=given_seconds, at=clock.monotonic() + given_seconds - submission.spent_seconds)

    def is_past(self, clock: Clock) -> bool:
        return self.at <= clock.monotonic()

    def error(self) -> DeadlineExceeded:
        """Error that the job fails with."""
        return DeadlineExceeded(f"the video was not made in the {plain(self.given_seconds)} s that it was given")


class Job:
    """Handle on one submitted request. Safe to use from any thread."""

    def __init__(
        self,
        job_id: str,
        request: VideoRequest,
        layout: ParallelLayout,
        output: str,
        on_change: Callable[[Job], None] | None,
        submission: Submission | None = None,
        *,
        came_at: float = 0.0,
        deadline: Deadline | None = None,
        state: JobState | None = None,
        plan: JobPlan = SIMPLEST,
        prediction: Prediction | None = None,
        planned_for: Machine | None = None,
    ) -> None:
        """Create a job.

        `came_at`: when it was first accepted, and `deadline`: when it fails if it is not over, both on a monotonic
        clock. `state`: what is known of the job already.
        `plan` is how it runs, as far as is known before its ranks are ready, and `prediction` what it should take, here
        or only in proportion: on the machine that it is `planned_for`.
        """
        self.id = job_id
        self.request = request
        self.layout = layout
        self.output = output
        self.submission = submission or Submission()
        self.came_at = came_at
        self.deadline = deadline
        self.plan = plan
        self.prediction = prediction
        self.planned_for = planned_for
        self.has_begun = False
        self._turn_began_at: float | None = None
        self._earlier_seconds = 0.0  # in turns of this run that are over
        self._paused_at = time.monotonic() if state is not None and state.stage == PAUSED else None
        self._earlier_pauses = self.submission.pauses  # but for how long the one lasts that is not over
        self.arrival: int | None = None  # its number in the queue, once it has been there
        self.overtaken = 0  # how often another one was taken before it for its LoRAs
        self._state = state or JobState()
        self._stop_reason: RinglightError | None = None
        self._changed = threading.Condition()
        self._on_change = on_change

    @property
    def state(self) -> JobState:
        """State of the job at this moment."""
        return self._state

    @property
    def stop_reason(self) -> RinglightError | None:
        """Error with which it was asked to stop; None if it was not."""
        return self._stop_reason

    @property
    def is_planned_here(self) -> bool:
        """Whether its prediction is of this machine."""
        return self.plan.predicted is not None

    def settle(self, plan: JobPlan, prediction: Prediction, planned_for: Machine) -> None:
        """Settle the plan, which is made with all that is known now; a job that has begun keeps its own."""
        if not self.has_begun:
            self.plan, self.prediction, self.planned_for = plan, prediction, planned_for

    def order(self) -> messages.RunJob:
        """Order that a worker is sent."""
        order = messages.RunJob(
            job_id=self.id,
            request=self.request,
            output=self.output,
            layout=self.layout,
            plan=self.plan,
            preview_seconds=self.submission.preview_seconds,
            continues=self.submission.continues,
        )
        if (keep := self.submission.keep) is None:
            return order
        return replace(order, state_file=keep.state_file, save_seconds=keep.save_seconds)

    def wait(self, timeout_seconds: float | None = None) -> RunReport:
        """Block until the job is over. Returns its report, raises its error, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state.is_over, timeout_seconds):
                raise TimeoutError(f"job {self.id} is not over after {timeout_seconds} s")
        if self._state.error is not None:
            raise self._state.error
        assert self._state.report is not None
        return self._state.report

    def ask_to_stop(self, reason: RinglightError) -> None:
        """Note why it should end; the first reason stands."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason

    @property
    def run_seconds(self) -> float:
        """Seconds of its turns since a replica took it up, from its beginning or from saved state; 0 before that."""
        since = self._turn_began_at
        return self._earlier_seconds + (0.0 if since is None else time.monotonic() - since)

    @property
    def pauses(self) -> Pauses:
        """Number of its pauses, and seconds that it waited for its next turns, up to this moment."""
        since, earlier = self._paused_at, self._earlier_pauses
        return earlier if since is None else earlier + Pauses(paused_seconds=time.monotonic() - since)

    @property
    def pauses_here(self) -> Pauses:
        """Pauses since it was submitted here."""
        return self.pauses - self.submission.pauses

    @property
    def is_paused(self) -> bool:
        """Whether it is paused, and waits for its next turn."""
        return self._paused_at is not None

    def expect(self, denoising_share: float) -> None:
        """Set the share of the whole time that denoising is expected to take, 0 to 1, so that progress moves evenly."""
        with self._changed:
            self._state = replace(self._state, denoising_share=max(LEAST_SHARE, denoising_share))

    def receive(self, event: JobEvent) -> None:
        """Fold an event into the job and tell whoever waits."""
        if isinstance(event, messages.JobFailed) and event.code == Cancelled.code and self._stop_reason is not None:
            event = _failure(self.id, self._stop_reason)
        self._time(event)
        if isinstance(event, messages.JobCompleted):  # of all its runs: workers know of the last one alone
            event = replace(event, report=replace(event.report, **msgspec.structs.asdict(self.pauses)))
        with self._changed:
            before, self._state = self._state, fold(self._state, event)
            self._changed.notify_all()
            listener = self._on_change
        if listener is not None and self._state is not before:
            try:
                listener(self)
            except BaseException:  # a listener's own; the worker's messages must still be read
                logger.exception("a listener of job %s failed", self.id)

    def _time(self, event: JobEvent) -> None:
        """Note when turns begin and end."""
        match event:
            case Taken():
                self.has_begun, self._turn_began_at = True, time.monotonic()
                self._earlier_pauses, self._paused_at = self.pauses, None
            case messages.JobPaused():
                self._earlier_seconds, self._turn_began_at = self.run_seconds, None
                self._earlier_pauses, self._paused_at = self.pauses + Pauses(pauses=1), time.monotonic()
            case WorkersLost() | Released():
                self._earlier_seconds, self._turn_began_at = 0.0, None

    def fail(self, error: RinglightError) -> None:
        """End the job with an error that did not come from a worker's message."""
        self.receive(_failure(self.id, error))

    def abandon(self) -> None:
        """Stop reporting changes: another process will continue the job."""
        with self._changed:
            self._on_change = None


def _failure(job_id: str, error: RinglightError) -> messages.JobFailed:
    return messages.JobFailed(job_id=job_id, code=error.code, message=str(error))
