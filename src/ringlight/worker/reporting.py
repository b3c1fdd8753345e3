"""Reporting: the report of a video, from the measurements of all ranks."""

from __future__ import annotations

from typing import Any

import msgspec

from ringlight.core.report import RankReport, RunReport, workload_hash
from ringlight.families.model import ModelSpec
from ringlight.parallel.collective import collective
from ringlight.parallel.control import Control
from ringlight.worker.held import HeldJob


@collective
def report_of(
    job: HeldJob, mine: RankReport, total_seconds: float, spec: ModelSpec, environment: dict[str, Any], control: Control
) -> RunReport:
    """Gather the report of all ranks, which call this together, of a computed video. `mine`: this rank's part."""
    order, tracer = job.order, job.tracer
    request = order.request
    ranks = [msgspec.msgpack.decode(part, type=RankReport) for part in control.gather(msgspec.msgpack.encode(mine))]
    workload = request.workload() | {"model_sha256": spec.fingerprint}
    return RunReport(
        workload=workload,
        workload_hash=workload_hash(workload),
        layout=order.layout.name,
        environment=environment | {"model": spec.name},
        stages=tracer.stages,
        other_seconds=total_seconds - sum(stage.seconds for stage in tracer.stages),
        total_seconds=total_seconds,
        step_seconds=tracer.step_seconds,
        ranks=ranks,
        num_tokens=spec.num_tokens(request.num_frames, request.height, request.width),
        outputs=[],
        num_slices=tracer.num_slices,
        decode_chunk=tracer.decode_chunk,
        placement=order.plan.placement,
        resumed_from_step=tracer.resumed_from_step,
        pauses=tracer.clock.pauses,
        paused_seconds=tracer.clock.paused_seconds,
        repeated_seconds=tracer.repeated_seconds,
        predicted=order.plan.predicted,
        layout_reason=order.plan.layout_reason,
        adapted=job.adapted,
    )
