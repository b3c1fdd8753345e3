"""Tracer: times stages with the device synchronised at their ends, and asks for each one's peak of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import torch

from ringlight.core.report import StageReport
from ringlight.core.warning import RequestWarning
from ringlight.parallel.collective import collective

P = ParamSpec("P")
T = TypeVar("T")


class MemoryMeter(Protocol):
    """Measures peaks of memory since it was last reset, in bytes."""

    def reset(self) -> None: ...

    def peak_bytes(self) -> int: ...


class JobEvents(Protocol):
    """What a run tells while it works, and how it learns that it should stop."""

    def stage_started(self, stage: str) -> None: ...

    def warned(self, warning: RequestWarning) -> None:
        """The video will not be quite what was asked."""
        ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def state_saved(self, step: int) -> None:
        """What it takes to go on after this many steps is on the disk. Called from any thread."""
        ...

    def preview_made(self, step: int, picture: bytes) -> None:
        """A small JPEG of what the video will be, as far as can be told after this many steps."""
        ...

    def boundary(self, problem: Exception | None = None) -> None:
        """A boundary, which every rank of a job comes to: raise on all of them when the job should stop.

        That is Cancelled where somebody asked for it, or the `problem` that some rank has but could work on with.
        """
        ...

    def check_problem(self, problem: Exception | None) -> None:
        """The same for a problem alone, where it is too late to cancel."""
        ...


class Tracer:
    """Collects the stages of one run. Stages do not nest; what lies between them is the report's Other row."""

    def __init__(self, device: torch.device, memory: MemoryMeter, events: JobEvents) -> None:
        self.stages: list[StageReport] = []
        self.step_seconds: list[float] = []
        self.began(0)
        self.events = events
        self._device = device
        self._memory = memory

    def began(self, step: int, num_slices: int = 1, decode_chunk: int = 1) -> None:
        """Where denoising begins, and in what portions this run works."""
        self.resumed_from_step, self.num_slices, self.decode_chunk = step, num_slices, decode_chunk

    @collective
    def timed(self, name: str, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a stage and record its seconds and peak memory under its name."""
        self.events.boundary()
        self.events.stage_started(name)
        self._memory.reset()
        start = self._now()
        result = stage(*args, **kwargs)
        seconds = self._now() - start
        self.stages.append(StageReport(name=name, seconds=seconds, peak_bytes=self._memory.peak_bytes()))
        return result

    @collective
    def begin_last(self, name: str) -> None:
        """Record a stage that goes on after the run: at 0 seconds, and with the memory that it begins with."""
        self.events.boundary()
        self.events.stage_started(name)
        self._memory.reset()
        self.stages.append(StageReport(name=name, seconds=0.0, peak_bytes=self._memory.peak_bytes()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class StepClock:
    """Seconds of each denoising step, the device synchronised at its end; reports each to the events."""

    def __init__(self, tracer: Tracer, device: torch.device, num_steps: int, num_done: int = 0) -> None:
        """`num_done` of the steps were done by another run."""
        self._tracer = tracer
        self._device = device
        self._num_steps = num_steps
        self._num_done = num_done
        self._last = time.perf_counter()

    def tick(self) -> None:
        """A step is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        steps = self._tracer.step_seconds
        steps.append(now - self._last)
        self._last = now
        self._num_done += 1
        self._tracer.events.step_finished(self._num_done, self._num_steps, steps[-1])
