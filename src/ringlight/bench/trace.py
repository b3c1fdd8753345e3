"""A trace for chrome://tracing or Perfetto: stages and steps of every run, laid end to end.

Reports hold how long each stage and step took, not when it began: within a run each begins where the one before ended.
A column is a process and a rank a thread. What ranks waited for the link is known as sums over a run, so it stands
there as counters that hold for the length of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ringlight.bench.result import Column, Result
from ringlight.bench.sending import Sample
from ringlight.core.report import RunReport, StageReport

MICRO = 1e6
STEPS_THREAD = 1000  # below all ranks
NOTE = "Durations were measured; begins were not: each stage and step is drawn where the one before it ended."

Event = dict[str, Any]


def to_trace(result: Result) -> bytes:
    """The trace as JSON (Trace Event Format)."""
    events = [event for place, column in enumerate(result.columns) for event in _column(result, column, place)]
    said = {"note": NOTE, "workload": result.name, "date": result.date, "command": result.command}
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms", "otherData": said})


def _column(result: Result, column: Column, place: int) -> Iterator[Event]:
    samples = [sample for sample in result.of(column.name) if sample.report is not None]
    num_ranks = max((len(sample.report.ranks) for sample in samples if sample.report), default=0)
    yield _name("process_name", column.name, place)
    for rank in range(num_ranks):
        yield _name("thread_name", f"rank {rank}", place, rank)
    yield _name("thread_name", "steps", place, STEPS_THREAD)
    begin = 0.0
    for sample in samples:
        if sample.report is not None:
            yield from _run(sample, sample.report, place, begin)
            begin += sample.report.total_seconds


def _run(sample: Sample, report: RunReport, place: int, begin: float) -> Iterator[Event]:
    told = {"round": sample.round, "request": sample.kind + 1, "video": sample.video_id}
    for rank in report.ranks:
        yield from _stages(rank.stages, place, rank.rank, begin, told)
        waits = {kind: 1000 * link.wait_seconds for kind, link in rank.link.items()}
        if waits:
            yield _event(f"waited for the link, rank {rank.rank} (ms a run)", "C", place, rank.rank, begin, args=waits)
            end = begin + report.total_seconds
            silence = dict.fromkeys(waits, 0)
            yield _event(f"waited for the link, rank {rank.rank} (ms a run)", "C", place, rank.rank, end, args=silence)
    at = begin + sum(stage.seconds for stage in _before(report.stages, "Denoising"))
    for number, seconds in enumerate(report.step_seconds, report.resumed_from_step + 1):
        yield _event(f"step {number}", "X", place, STEPS_THREAD, at, seconds)
        at += seconds
    rest = begin + sum(stage.seconds for stage in report.stages)
    yield _event("Other", "X", place, 0, rest, report.other_seconds, told)


def _stages(stages: list[StageReport], place: int, rank: int, begin: float, told: Event) -> Iterator[Event]:
    for stage in stages:
        yield _event(stage.name, "X", place, rank, begin, stage.seconds, told | {"peak_bytes": stage.peak_bytes})
        begin += stage.seconds


def _before(stages: list[StageReport], name: str) -> list[StageReport]:
    names = [stage.name for stage in stages]
    return stages[: names.index(name)] if name in names else []


def _name(what: str, name: str, place: int, thread: int = 0) -> Event:
    return {"name": what, "ph": "M", "pid": place, "tid": thread, "args": {"name": name}}


def _event(
    name: str, phase: str, place: int, thread: int, at: float, seconds: float | None = None, args: Event | None = None
) -> Event:
    lasts = {} if seconds is None else {"dur": seconds * MICRO}
    return {"name": name, "ph": phase, "pid": place, "tid": thread, "ts": at * MICRO, "args": args or {}} | lasts
