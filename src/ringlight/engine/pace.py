"""Pace: how long videos take here: as planned, times what those that were made took of their plans."""

from __future__ import annotations

import threading

import msgspec

from ringlight.core.report import RunReport
from ringlight.engine.job_state import JobState
from ringlight.engine.jobs import Job
from ringlight.planner.prediction import Prediction

WEIGHT_OF_NEWEST = 0.5


class Estimate(msgspec.Struct, frozen=True):
    """Seconds that a video is expected to take on one replica: its denoising, and all else."""

    denoising_seconds: float
    other_seconds: float

    @property
    def total_seconds(self) -> float:
        return self.denoising_seconds + self.other_seconds


class Pace:
    """Measured seconds per planned second, of denoising and of everything else. Safe to use from any thread.

    Until a video is finished, plans count where they are of this machine, times what the last step took of its own; so
    one that runs, by its steps, and one that waits are measured alike. Elsewhere nothing is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._denoising: float | None = None
        self._other: float | None = None
        self._of_last_step = 1.0

    def hear(self, plan: Prediction, state: JobState) -> None:
        """Learn from a running video: from the seconds of its last step."""
        planned = _planned(plan).denoising_seconds
        if state.step_seconds and planned:
            self._of_last_step = state.num_steps * state.step_seconds / planned

    def learn(self, plan: Prediction, report: RunReport) -> None:
        """Learn from a finished video; a resumed one tells less, because part of it was not measured."""
        planned = _planned(plan)
        if not report.step_seconds or not planned.denoising_seconds or not planned.other_seconds:
            return
        num_steps = int(report.workload["num_inference_steps"])
        denoising = sum(report.step_seconds) / len(report.step_seconds) * num_steps / planned.denoising_seconds
        measured = sum(stage.seconds for stage in report.stages if stage.name == "Denoising")
        other = (report.total_seconds - measured) / planned.other_seconds
        with self._lock:
            self._denoising, self._other = _moved(self._denoising, denoising), _moved(self._other, other)

    def estimate(self, plan: Prediction, is_ours: bool) -> Estimate | None:
        """Estimate a request; None while nothing is known. `is_ours`: the plan is of this machine."""
        planned = _planned(plan)
        with self._lock:
            denoising, other = self._denoising, self._other
        if denoising is not None and other is not None:
            return Estimate(denoising * planned.denoising_seconds, other * planned.other_seconds)
        factor = self._of_last_step
        return Estimate(factor * planned.denoising_seconds, factor * planned.other_seconds) if is_ours else None

    def remaining_seconds(self, job: Job) -> float | None:
        """Seconds that remain of a job's own turns.

        They follow from its steps once there are some, before that from its estimate less what it has run.
        """
        if (seconds := job.state.eta_seconds) is not None:
            return seconds
        rest = self.rest_seconds(job)
        return None if rest is None else max(0.0, rest - job.run_seconds)

    def rest_seconds(self, job: Job) -> float | None:
        """Seconds that remain by one measure for all jobs, to compare them: what is left of the estimate.

        Another process may have run its part. A step that was slow makes no job longer than another one that is alike.
        """
        state = job.state
        if (estimate := self.whole(job)) is None:
            return state.eta_seconds
        if not state.num_steps:
            return estimate.total_seconds * (1 - state.progress / 100)
        denoised = state.step / state.num_steps
        decoded = state.frames_done / state.num_frames if state.num_frames else 0.0
        return (1 - denoised) * estimate.denoising_seconds + (1 - decoded) * estimate.other_seconds

    def whole(self, job: Job) -> Estimate | None:
        """Estimate for a job that runs alone from its beginning."""
        return None if job.prediction is None else self.estimate(job.prediction, job.is_planned_here)


def _planned(plan: Prediction) -> Estimate:
    denoising = plan.seconds("Denoising") or 0.0
    return Estimate(denoising, plan.total_seconds - denoising)


def _moved(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT_OF_NEWEST * (newest - before)
