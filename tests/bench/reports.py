"""Reports and results as servers and benchmarks leave them, with numbers that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ringlight.bench.figures import Measured
from ringlight.bench.result import Column, Result
from ringlight.bench.sending import Sample
from ringlight.bench.workload import RequestKind, Workload, WorkloadFile
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB, LinkReport, MemoryReport, RankReport, RunReport, StageReport, workload_hash

GPU = {
    "device": "48G RTX40 series",
    "device_type": "cuda",
    "dtype": "bfloat16",
    "vae_dtype": "float32",
    "model": "Wan2.2-TI2V-5B-Diffusers",
    "versions": {"torch": "2.13.0"},
}
CPU = GPU | {"device": "AMD EPYC", "device_type": "cpu", "dtype": "float32"}
FIELDS = {"prompt": "a boat", "width": 1280, "height": 704, "num_frames": 25, "seed": 1, "model_sha256": "a" * 64}

PAGE_STAGES = ("InputValidation", "TextEncoding", "LatentPreparation", "TimestepPreparation", "Denoising", "Decoding")
PAGE_SECONDS = {
    "u1r2": (0.1060, 1.3965, 0.0002, 0.0003, 52.6358, 7.6708),
    "u1r1": (0.1029, 2.2261, 0.0002, 0.0004, 71.6785, 13.4314),
}
PAGE_TOTAL = {"u1r2": 63.74, "u1r1": 90.63}
PAGE_GIB = {"u1r2": (20.07, 13.35), "u1r1": (27.4015, 20.397)}  # reserved, allocated: the page's, unrounded


def cuda_memory(rank: int, reserved_gib: float, allocated_gib: float) -> MemoryReport:
    reserved, allocated = int(reserved_gib * GIB), int(allocated_gib * GIB)
    return MemoryReport(
        rank=rank,
        device=f"cuda:{rank}",
        peak_reserved_bytes=reserved,
        peak_allocated_bytes=allocated,
        overhead_bytes=reserved - allocated,
        overhead_ratio=(reserved - allocated) / reserved,
    )


def cpu_memory(rank: int, peak_gib: float = 0.5, idle_gib: float = 0.4) -> MemoryReport:
    peak, idle = int(peak_gib * GIB), int(idle_gib * GIB)
    return MemoryReport(
        rank=rank,
        device="cpu",
        peak_resident_bytes=peak,
        idle_resident_bytes=idle,
        resident_growth_bytes=peak - idle,
    )


def report(
    layout: str,
    seconds: Mapping[str, float],
    other_seconds: float = 0.1,
    memory: Sequence[MemoryReport] | None = None,
    link: Mapping[str, LinkReport] | None = None,
    environment: Mapping[str, Any] = CPU,
    **fields: Any,
) -> RunReport:
    """A run: every rank has the same stages, and its own memory; several ranks have this link."""
    num_ranks = ParallelLayout.parse(layout).num_ranks
    memory = memory or [cpu_memory(rank) for rank in range(num_ranks)]
    stages = [StageReport(name=name, seconds=value, peak_bytes=memory[0].peak_bytes) for name, value in seconds.items()]
    workload = FIELDS | fields
    return RunReport(
        workload=workload,
        workload_hash=workload_hash(workload),
        layout=layout,
        environment=dict(environment),
        stages=stages,
        other_seconds=other_seconds,
        total_seconds=sum(seconds.values()) + other_seconds,
        step_seconds=[seconds["Denoising"] / 4] * 4,
        ranks=[
            RankReport(rank=rank, stages=stages, memory=memory[rank], link=dict(link or {}))
            for rank in range(num_ranks)
        ],
        num_tokens=100,
        outputs=["video.mp4"],
    )


def page_report(layout: str) -> RunReport:
    """The run that the published page would be of."""
    seconds = dict(zip(PAGE_STAGES, PAGE_SECONDS[layout], strict=True))
    ranks = range(ParallelLayout.parse(layout).num_ranks)
    memory = [cuda_memory(rank, *PAGE_GIB[layout]) for rank in ranks]
    other = PAGE_TOTAL[layout] - sum(seconds.values())
    return report(layout, seconds, other_seconds=other, memory=memory, environment=GPU)


def run(layout: str, denoising: float, decoding: float = 2.0, **told: Any) -> RunReport:
    """A run of which only these seconds matter."""
    return report(layout, {"Denoising": denoising, "Decoding": decoding}, **told)


def workload(**fields: Any) -> Workload:
    """A workload of one kind of request."""
    kind = RequestKind(
        prompt="a boat", size="1280x704", num_frames=25, num_inference_steps=4, guidance_scale=5.0, **fields
    )
    said = WorkloadFile(request=[], name="boats", description="boats")
    return Workload(said=said, kinds=[kind], images=(None,))


def measured(label: str, *runs: RunReport, **told: Any) -> Measured:
    """A column with a run in each round."""
    layout = runs[0].layout if runs else ""
    return Measured(label=label, layout=layout, reports=[*runs], rounds=[*range(1, len(runs) + 1)], **told)


def result(reports: Mapping[str, Sequence[RunReport]], asked: Workload | None = None, **told: Any) -> Result:
    """A benchmark whose columns have these runs, one a round."""
    asked = asked or workload()
    samples = [
        Sample(
            column=name,
            round=number,
            place=0,
            kind=0,
            fate="completed",
            sent_seconds=0.0,
            latency_seconds=found.total_seconds + 0.1,
            video_id=f"video_{name}_{number}",
            report=found,
        )
        for name, runs in reports.items()
        for number, found in enumerate(runs, 1)
    ]
    fields: dict[str, Any] = {
        "name": asked.name,
        "description": asked.said.description,
        "workload": asked.content(),
        "workload_hash": asked.sha256,
        "titles": [kind.title for kind in asked.kinds],
        "baseline": "u1r1" if "u1r1" in reports else next(iter(reports)),
        "num_rounds": max(map(len, reports.values())),
        "columns": [Column(name=name, layout=name, command=f"ringlight serve # {name}") for name in reports],
        "samples": samples,
        "date": "2026-01-01 12:00 UTC",
        "command": "ringlight bench",
        "machine": {"cores": 2},
    }
    return Result(**fields | told).with_ratios()
