"""A Replica without a process, for what the engine does by itself."""

from __future__ import annotations

import threading

from ringlight.core import messages
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

    def cancel(self, job_id: str) -> None:
        self.events.append("cancel")
        self._cancelled.add(job_id)
        self.go_on.set()

    def follow(self) -> None:
        self.events.append("follow")

    def close(self, at_once: bool = False) -> None:
        self.events.append("close")
        self.go_on.set()
