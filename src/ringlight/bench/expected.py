"""Expected: what the planner says of a request, to stand beside what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from ringlight.bench.sending import Sample
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import RunReport
from ringlight.families.model import ModelSpec
from ringlight.families.traffic import Traffic
from ringlight.families.work import Work
from ringlight.planner.calibration import Calibration, request_of, settings_of
from ringlight.planner.hardware import LinkRates
from ringlight.planner.prediction import predict, sent_by

ESTIMATED_KINDS = ("text",)  # of traffic: how many tokens a prompt has is not known without its tokenizer
BANDED_STAGES = ("Denoising", "Decoding")  # whose seconds a calibration is held to
MEMORY_BAND = 0.10


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction for a column, a kind of request and a number of slices. `sent_bytes` are by rank and kind of traffic.

    With a calibration also seconds by stage and in all, and the peak of the worst rank; else they are None.
    """

    column: str
    kind: int
    num_slices: int
    sent_bytes: list[Traffic]
    stages: dict[str, float] | None = None
    total_seconds: float | None = None
    peak_bytes: int | None = None


def expect(
    column: str, kind: int, report: RunReport, spec: ModelSpec, known: Calibration | None, link: LinkRates
) -> Expected:
    """Predict a run: the bytes it sends and, with a calibration, its seconds and its memory."""
    work, layout = Work.of(spec, request_of(report)), ParallelLayout.parse(report.layout)
    settings = settings_of(report)
    sent = [sent_by(rank, work, layout, report.num_slices, settings) for rank in range(layout.num_ranks)]
    if known is None:
        return Expected(column=column, kind=kind, num_slices=report.num_slices, sent_bytes=sent)
    machine = known.machine(link)
    if report.placement is not None:
        within = msgspec.structs.replace(machine.settings, memory_budget_bytes=settings.memory_budget_bytes)
        machine = msgspec.structs.replace(machine, settings=within, residency="placed")
    found = predict(work, layout, machine)
    return Expected(
        column=column,
        kind=kind,
        num_slices=report.num_slices,
        sent_bytes=sent,
        stages={stage.name: stage.seconds for stage in found.stages},
        total_seconds=found.total_seconds,
        peak_bytes=found.worst_memory.peak_bytes,
    )


def counted_bytes(report: RunReport) -> list[Traffic]:
    """Bytes that each rank sent by kind, as counted; kinds without any are left out."""
    return [{kind: link.sent_bytes for kind, link in rank.link.items() if link.sent_bytes} for rank in report.ranks]


def misses(expected: Sequence[Expected], samples: Sequence[Sample], band: float) -> Iterator[str]:
    """Yield medians that differ from their prediction by more than `band` (of it), or memory by more than its own."""
    for found in expected:
        reports = [
            sample.report
            for sample in samples
            if (sample.column, sample.kind) == (found.column, found.kind) and sample.report is not None
        ]
        if found.stages is None or found.peak_bytes is None or not reports:
            continue
        measured = {
            name: [stage.seconds for report in reports for stage in report.stages if stage.name == name]
            for name in BANDED_STAGES
        }
        held = [(name, found.stages[name], median(values), band) for name, values in measured.items() if values]
        if peaks := [report.worst_memory.peak_bytes for report in reports if report.worst_memory.peak_bytes]:
            held.append(("peak of memory", found.peak_bytes, median(peaks), MEMORY_BAND))
        for name, said, value, most in held:
            if abs(value / said - 1) > most:
                yield f"{found.column}, request {found.kind + 1}: {name} is {value / said:.2f} of what was predicted"
