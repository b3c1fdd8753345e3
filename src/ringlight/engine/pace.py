"""Pace: how long videos take here, learnt from those that were made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import msgspec

from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.engine.jobs import Job

WEIGHT_OF_NEWEST = 0.5
UNKNOWN_SECONDS = 10.0  # until a place is free, where nothing has been measured


class Estimate(msgspec.Struct, frozen=True):
    """Seconds that a video is expected to take on one replica: its denoising, and all else."""

    denoising_seconds: float
    other_seconds: float

    @property
    def total_seconds(self) -> float:
        return self.denoising_seconds + self.other_seconds


class Pace:
    """Seconds per arithmetic operation of denoising, and per pixel of everything else. Safe to use from any thread."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._per_flop: float | None = None
        self._per_pixel: float | None = None

    def learn(self, request: VideoRequest, report: RunReport) -> None:
        """From a finished video; one that was resumed tells less, for part of it was not measured."""
        if not report.step_seconds:
            return
        per_step = sum(report.step_seconds) / len(report.step_seconds)
        denoising = next((stage.seconds for stage in report.stages if stage.name == "Denoising"), 0.0)
        with self._lock:
            self._per_flop = _moved(self._per_flop, per_step / self._flops_per_step(request))
            self._per_pixel = _moved(self._per_pixel, (report.total_seconds - denoising) / _pixels(request))

    def estimate(self, request: VideoRequest) -> Estimate | None:
        """What a request is expected to take, None before anything was learnt."""
        with self._lock:
            if self._per_flop is None or self._per_pixel is None:
                return None
            denoising = self._per_flop * self._flops_per_step(request) * request.num_inference_steps
            return Estimate(denoising, self._per_pixel * _pixels(request))

    def remaining_seconds(self, job: Job) -> float | None:
        """Of a job that runs: by its own steps once there are some, else as estimated."""
        if (seconds := job.state.eta_seconds) is not None:
            return seconds
        estimate = self.estimate(job.request)
        return None if estimate is None else estimate.total_seconds

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

    def _flops_per_step(self, request: VideoRequest) -> float:
        num_tokens = self._spec.num_tokens(request.num_frames, request.height, request.width)
        return self._spec.transformer.forward_flops(num_tokens) * (2 if request.uses_guidance else 1)


def _moved(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT_OF_NEWEST * (newest - before)


def _pixels(request: VideoRequest) -> int:
    return request.num_frames * request.height * request.width
