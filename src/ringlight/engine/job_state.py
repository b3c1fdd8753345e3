"""Job state: all that is known of a job, folded out of the events of its workers and its engine."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from ringlight.core import messages
from ringlight.core.errors import RinglightError, from_code
from ringlight.core.report import RunReport
from ringlight.core.warning import Warnings

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
