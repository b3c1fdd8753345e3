"""Pace: how long videos take here: as planned, times what those that were made took of their plans."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import msgspec

from ringlight.core.report import RunReport
from ringlight.engine.jobs import Job
from ringlight.planner.prediction import Prediction

WEIGHT_OF_NEWEST = 0.5
UNKNOWN_SECONDS = 10.0  # until a place is free, where nothing is known


class Estimate(msgspec.Struct, frozen=True):
    """Seconds that a video is expected to take on one replica: its denoising, and all else."""

    denoising_seconds: float
    other_seconds: float

    @property
    def total_seconds(self) -> float:
        return self.denoising_seconds + self.other_seconds


class Pace:
    """Measured seconds per planned second, of denoising and of everything else. Safe to use from any thread.

    Until there are any, plans count as they are where they are of this machine; elsewhere nothing is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._denoising: float | None = None
        self._other: float | None = None

    def learn(self, plan: Prediction, report: RunReport) -> None:
        """From a finished video; one that was resumed tells less, for part of it was not measured."""
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
        """What a request is expected to take. `is_ours`: the plan is of this machine. None while nothing is known."""
        planned = _planned(plan)
        with self._lock:
            denoising, other = self._denoising, self._other
        if denoising is not None and other is not None:
            return Estimate(denoising * planned.denoising_seconds, other * planned.other_seconds)
        return planned if is_ours else None

    def remaining_seconds(self, job: Job) -> float | None:
        """By a job's own steps once there are some, else as estimated, less what it has run."""
        if (seconds := job.state.eta_seconds) is not None:
            return seconds
        estimate = None if job.prediction is None else self.estimate(job.prediction, job.is_planned_here)
        return None if estimate is None else max(0.0, estimate.total_seconds - job.run_seconds)

    def seconds_after(self, ahead: Sequence[Job], job: Job, num_replicas: int) -> float | None:
        """Until a job that waits is over, those ahead of it shared out over the replicas."""
        known = [self.remaining_seconds(each) for each in [*ahead, job]]
        if None in known:
            return None
        *before, own = (seconds for seconds in known if seconds is not None)
        return sum(before) / num_replicas + own

    def seconds_until_free(self, jobs: Iterable[Job]) -> float:
        """Until one of these is over, at least a second."""
        known = [seconds for job in jobs if (seconds := self.remaining_seconds(job)) is not None]
        return max(1.0, min(known, default=UNKNOWN_SECONDS))


def _planned(plan: Prediction) -> Estimate:
    denoising = plan.seconds("Denoising") or 0.0
    return Estimate(denoising, plan.total_seconds - denoising)


def _moved(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT_OF_NEWEST * (newest - before)
