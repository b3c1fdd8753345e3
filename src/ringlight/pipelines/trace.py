"""Tracer: times stages with the device synchronised at their ends, and asks for each one's peak of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import ParamSpec, Protocol, TypeVar

import torch

from ringlight.core.report import StageReport
from ringlight.core.warning import RequestWarning
from ringlight.parallel.collective import collective
from ringlight.pipelines.turn import TurnClock, Turns

P = ParamSpec("P")
T = TypeVar("T")


class MemoryMeter(Protocol):
    """Meter of memory peaks since its last reset, in bytes."""

    def reset(self) -> None: ...

    def peak_bytes(self) -> int: ...


class JobEvents(Protocol):
    """Progress that a run reports while it works, and requests to stop or to pause that it polls."""

    @property
    def turn_ends(self) -> bool:
        """Whether all ranks have agreed, at the boundary before, that this job is paused where it can be."""
        ...

    @property
    def ends_now(self) -> bool:
        """Whether the pause is also within a step, which is then made again."""
        ...

    def stage_started(self, stage: str) -> None: ...

    def warned(self, warning: RequestWarning) -> None:
        """Report that the video will not be quite what was asked."""
        ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def state_saved(self, step: int) -> None:
        """Report that the state after this many steps is on the disk. Called from any thread."""
        ...

    def preview_made(self, step: int, picture: bytes) -> None:
        """Report a small JPEG of what the video will be, as far as can be told after this many steps."""
        ...

    def boundary(self, problem: Exception | None = None) -> None:
        """Reach a boundary, which every rank of a job comes to.

        It raises on all of them when the job should stop, and tells whether its turn ends.

        It stops with Cancelled where somebody asked for it, or the `problem` that some rank has but could work on with.
        """
        ...

    def check_problem(self, problem: Exception | None) -> None:
        """Raise a problem on all ranks as `boundary` does, where it is too late to cancel."""
        ...


class Tracer:
    """Recorder of the stages of one run. Stages do not nest; what lies between them is the report's Other row.

    All seconds are the job's own: its `clock` stands still while others have the turn.
    """

    def __init__(self, device: torch.device, memory: MemoryMeter, events: JobEvents) -> None:
        self.stages: list[StageReport] = []
        self.step_seconds: list[float] = []
        self.repeated_seconds = 0.0
        self.began(0)
        self.events = events
        self.clock = TurnClock()
        self._device = device
        self._memory = memory

    def began(self, step: int, num_slices: int = 1, decode_chunk: int = 1) -> None:
        """Record the step at which denoising begins, and the portions in which this run works."""
        self.resumed_from_step, self.num_slices, self.decode_chunk = step, num_slices, decode_chunk

    @collective
    def timed(self, name: str, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a stage and record its seconds and peak memory under its name."""
        start = self._begin(name)
        result = stage(*args, **kwargs)
        self._record(name, self.now() - start)
        return result

    @collective
    def timed_in_turns(self, name: str, stage: Turns[T]) -> Turns[T]:
        """Run a stage that can be paused, and record it as `timed` does."""
        with closing(stage):
            while True:
                start = self._begin(name)
                try:
                    left = next(stage)
                except StopIteration as end:
                    self._record(name, self.now() - start)
                    result: T = end.value
                    return result
                self._record(name, self.now() - start)
                yield left

    @collective
    def begin_last(self, name: str) -> None:
        """Record a stage that continues after the run: at 0 seconds, and with the memory that it begins with."""
        self._begin(name)
        self._record(name, 0.0)

    def now(self) -> float:
        """Seconds in turns so far, after all work of the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self.clock.now()

    @collective
    def _begin(self, name: str) -> float:
        """Begin or resume a stage; returns when."""
        self.events.boundary()
        self.events.stage_started(name)
        self._memory.reset()
        return self.now()

    def _record(self, name: str, seconds: float) -> None:
        """Note a stage that took so long, or add it to what it took in earlier turns."""
        peak_bytes = self._memory.peak_bytes()
        for place, stage in enumerate(self.stages):
            if stage.name == name:
                seconds, peak_bytes = stage.seconds + seconds, max(stage.peak_bytes, peak_bytes)
                self.stages[place] = StageReport(name=name, seconds=seconds, peak_bytes=peak_bytes)
                return
        self.stages.append(StageReport(name=name, seconds=seconds, peak_bytes=peak_bytes))


class StepClock:
    """Seconds of each denoising step, the device synchronised at its end; reports each to the events."""

    def __init__(self, tracer: Tracer, num_steps: int, num_done: int = 0) -> None:
        """Prepare the clock. `num_done` of the steps were done by another run."""
        self._tracer = tracer
        self._num_steps = num_steps
        self._num_done = num_done
        self.begin()

    def begin(self) -> None:
        """Begin the next step now, and not with the end of the one before."""
        self._last = self._tracer.now()

    def give_up(self) -> None:
        """Discard the seconds of a step that is broken off, and will be made again."""
        self._tracer.repeated_seconds += self._tracer.now() - self._last

    def tick(self) -> None:
        """Note the end of a step."""
        now = self._tracer.now()
        steps = self._tracer.step_seconds
        steps.append(now - self._last)
        self._last = now
        self._num_done += 1
        self._tracer.events.step_finished(self._num_done, self._num_steps, steps[-1])
