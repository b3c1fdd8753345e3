"""A Replica without a process, for what the engine does by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ringlight.core import messages
from ringlight.core.errors import RinglightError, WorkerError
from ringlight.core.report import MemoryReport, RankReport, RunReport, StageReport
from ringlight.engine.replica import Lost, Receive
from ringlight.engine.waiting import Awaited


def report_of(job: messages.RunJob) -> RunReport:
    memory = MemoryReport(rank=0, device="cpu", peak_resident_bytes=1)
    stages = [StageReport(name="Denoising", seconds=1.0, peak_bytes=1)]
    return RunReport(
        workload=job.request.workload(),
        workload_hash="",
        layout=job.layout.name,
        environment={},
        stages=stages,
        other_seconds=0.0,
        total_seconds=1.0,
        step_seconds=[0.5, 0.5],
        ranks=[RankReport(rank=0, stages=stages, memory=memory, link={})],
        num_tokens=1,
        outputs=[job.output],
        num_slices=job.plan.num_slices,
        decode_chunk=job.plan.decode_chunk,
        placement=job.plan.placement,
        predicted=job.plan.predicted,
        layout_reason=job.plan.layout_reason,
    )


class FakeReplica:
    """Completes every job at once, or, made with `held`, after two steps when told to go on; obeys a cancel then."""

    def __init__(self, held: bool = False) -> None:
        self.events: list[str] = []
        self.in_the_middle = threading.Event()
        self.go_on = threading.Event()
        self.ready = False
        self.awaited: Awaited | None = None
        self.loss: RinglightError | None = None
        self._cancelled: set[str] = set()
        if not held:
            self.go_on.set()

    def start(self) -> messages.WorkerReady:
        self.events.append("start")
        self.ready = True
        return messages.WorkerReady(environment={"device": "none"}, load_seconds=0.0)

    def is_ready(self) -> bool:
        return self.ready

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        self.events.append(f"run {job.request.prompt}")
        receive(messages.StageStarted(job_id=job.job_id, stage="Denoising"))
        for step in (1, 2):
            receive(messages.StepFinished(job_id=job.job_id, step=step, num_steps=4, seconds=0.5))
        self.in_the_middle.set()
        assert self.go_on.wait(60)
        if job.job_id in self._cancelled:
            receive(messages.JobFailed(job_id=job.job_id, code="cancelled", message="cancelled"))
        else:
            receive(messages.JobCompleted(job_id=job.job_id, report=report_of(job)))

    def resume(self, job_id: str) -> None:
        raise AssertionError("it has kept no job")

    def pause(self, job_id: str, now: bool = False) -> None:
        """It comes too late, as in Decoding."""

    def drop(self, job_id: str) -> None:
        """It has kept none."""

    def cancel(self, job_id: str) -> None:
        self.events.append("cancel")
        self._cancelled.add(job_id)
        self.go_on.set()

    def follow(self) -> None:
        self.events.append("follow")

    def close(self, at_once: bool = False) -> None:
        self.events.append("close")
        self.go_on.set()


@dataclass
class Kept:
    """A job that a replica computes, or keeps for a later turn."""

    job: messages.RunJob
    receive: Receive
    lost: Lost
    step: int = 0


class TurningReplica(FakeReplica):
    """Denoises step by step, each of `step_seconds` as it says, when it may; makes way between two steps as it is told,
    and keeps jobs in `held_bytes`.

    It stops before the step that `stop` is true of, told the prompt and the number of steps done, until `go_on` is set
    or the rule is another one.
    """

    def __init__(self, held_bytes: int = 1, step_seconds: float = 0.5) -> None:
        super().__init__()
        self.kept: dict[str, Kept] = {}
        self.stop: Callable[[str, int], bool] = lambda prompt, step: False
        self._held_bytes = held_bytes
        self._step_seconds = step_seconds
        self._changed = threading.Condition()
        self._turn = ""
        self._asked_to_pause = self.is_urged = False
        self._death: RinglightError | None = None

    def stop_at(self, stop: Callable[[str, int], bool] = lambda prompt, step: False) -> None:
        """Stop where this is true from now on; nowhere without it."""
        with self._changed:
            self.stop = stop
            self._changed.notify_all()

    def die(self, error: RinglightError | None = None) -> None:
        """The workers end: whoever has a job there hears of it."""
        with self._changed:
            self.ready, self._death = False, error or WorkerError("the worker process died (signal 9)")
            self._changed.notify_all()
        if not self._turn:
            self._lose()

    def start(self) -> messages.WorkerReady:
        self._death = None
        return super().start()

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        self.events.append(f"run {job.request.prompt}")
        self.kept[job.job_id] = Kept(job, receive, lost)
        self._take_turn(job.job_id)

    def resume(self, job_id: str) -> None:
        if job_id in self.kept:
            self.events.append(f"resume {self.kept[job_id].job.request.prompt}")
            self._take_turn(job_id)

    def pause(self, job_id: str, now: bool = False) -> None:
        with self._changed:
            if self._turn == job_id:
                self._asked_to_pause, self.is_urged = True, now
                self._changed.notify_all()

    def drop(self, job_id: str) -> None:
        if (kept := self.kept.pop(job_id, None)) is not None:
            self.events.append(f"drop {kept.job.request.prompt}")

    def cancel(self, job_id: str) -> None:
        with self._changed:
            self._cancelled.add(job_id)
            self._changed.notify_all()

    def close(self, at_once: bool = False) -> None:
        self.die(WorkerError("the workers have ended"))
        self.events.append("close")

    def _take_turn(self, job_id: str) -> None:
        kept, request = self.kept[job_id], self.kept[job_id].job.request
        with self._changed:
            self._turn, self._asked_to_pause = job_id, False
        kept.receive(messages.StageStarted(job_id=job_id, stage="Denoising"))
        while kept.step < request.num_inference_steps and self._may_go_on(kept):
            kept.step += 1
            kept.receive(self._finished(kept))
        with self._changed:
            self._turn, makes_way = "", self._asked_to_pause
        if self._death is not None:
            return self._lose()
        if job_id in self._cancelled:
            del self.kept[job_id]
            return kept.receive(messages.JobFailed(job_id=job_id, code="cancelled", message="cancelled"))
        if makes_way and kept.step < request.num_inference_steps:
            self.events.append(f"pause {request.prompt}")
            if kept.job.state_file:
                kept.receive(messages.StateSaved(job_id=job_id, step=kept.step))
            return kept.receive(messages.JobPaused(job_id=job_id, step=kept.step, held_bytes=self._held_bytes))
        del self.kept[job_id]
        for stage in ("Decoding", "Output"):
            kept.receive(messages.StageStarted(job_id=job_id, stage=stage))
        kept.receive(messages.JobCompleted(job_id=job_id, report=report_of(kept.job)))

    def _finished(self, kept: Kept) -> messages.StepFinished:
        num_steps = kept.job.request.num_inference_steps
        return messages.StepFinished(
            job_id=kept.job.job_id, step=kept.step, num_steps=num_steps, seconds=self._step_seconds
        )

    def _may_go_on(self, kept: Kept) -> bool:
        """Whether there is another step, once it may be begun."""

        def is_told() -> bool:
            has_to_end = self._asked_to_pause or kept.job.job_id in self._cancelled or self._death is not None
            return has_to_end or not self.stop(kept.job.request.prompt, kept.step)

        with self._changed:
            assert self._changed.wait_for(is_told, 60)
            return not self._asked_to_pause and kept.job.job_id not in self._cancelled and self._death is None

    def _lose(self) -> None:
        left, self.kept = self.kept, {}
        for each in left.values():
            each.lost(self._death or WorkerError("the workers have ended"))
