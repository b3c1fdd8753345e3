"""Job: one request on its way, told by the events of its workers and of its engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from ringlight.core import messages
from ringlight.core.clock import Clock
from ringlight.core.errors import Cancelled, DeadlineExceeded, RinglightError
from ringlight.core.layout import ParallelLayout
from ringlight.core.plain import plain
from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.sizes import AskedSize
from ringlight.engine.job_state import (
    LEAST_SHARE,
    PAUSED,
    JobEvent,
    JobState,
    Pauses,
    Released,
    Taken,
    WorkersLost,
    fold,
)
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction

logger = logging.getLogger(__name__)


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
        self._is_abandoned = False

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
        """Block until the job is over. Returns its report. Raises its error, TimeoutError, Cancelled if abandoned."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state.is_over or self._is_abandoned, timeout_seconds):
                raise TimeoutError(f"job {self.id} is not over after {timeout_seconds} s")
        if not self._state.is_over:
            raise Cancelled("the engine was closed; another process goes on with the job")
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
        with self._changed:
            if self._is_abandoned:
                return
            if isinstance(event, messages.JobFailed) and event.code == Cancelled.code and self._stop_reason is not None:
                event = _failure(self.id, self._stop_reason)
            self._time(event)
            if isinstance(event, messages.JobCompleted):  # of all its runs: workers know of the last one alone
                event = replace(event, report=replace(event.report, **msgspec.structs.asdict(self.pauses)))
            before, self._state = self._state, fold(self._state, event)
            self._changed.notify_all()
        if self._on_change is not None and self._state is not before:
            try:
                self._on_change(self)
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
        """Leave the job as it stands, whatever happens to it here: another process will continue it."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()


def _failure(job_id: str, error: RinglightError) -> messages.JobFailed:
    return messages.JobFailed(job_id=job_id, code=error.code, message=str(error))
