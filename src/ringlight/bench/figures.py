"""Figures: rows of the page's tables as medians with their spread, for any number of columns side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self

import msgspec

from ringlight.core.report import GIB, MemoryReport, RunReport

Unit = Literal["s", "GB", "ratio"]
OTHER, TOTAL = "Other", "Total"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Repeated measurements of one thing: their median, least, most, and median absolute deviation."""

    median: float
    low: float
    high: float
    mad: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None where there is nothing."""
        if not values:
            return None
        median = statistics.median(values)
        mad = statistics.median(abs(value - median) for value in values)
        return cls(median=median, low=min(values), high=max(values), mad=mad, n=len(values))

    @property
    def noise(self) -> float | None:
        """How far a measurement may lie off: half of the spread; None after a single one."""
        return (self.high - self.low) / 2 if self.n > 1 else None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A column: how it is called, its runs, and which other column, by its place, it is compared with."""

    label: str
    layout: str
    reports: list[RunReport]
    reference: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table: a value for each column, None where that has none."""

    name: str
    unit: Unit
    values: list[Spread | None]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A column beside the one it is compared with. `ratio` is value / reference, None where that is nothing.

    `is_noise`: no larger than what repetitions differ by; None where one of them was not repeated.
    """

    delta: float
    ratio: float | None
    is_noise: bool | None

    @property
    def speedup(self) -> float | None:
        """How many times as fast; None for what took no time."""
        return 1 / self.ratio if self.ratio else None


def differ(value: Spread | None, reference: Spread | None) -> Difference | None:
    """None where one of them is missing."""
    if value is None or reference is None:
        return None
    delta = value.median - reference.median
    noises = [spread.noise for spread in (value, reference)]
    known = [noise for noise in noises if noise is not None]
    positive = value.median > 0 and reference.median > 0
    return Difference(
        delta=delta,
        ratio=value.median / reference.median if positive else None,
        is_noise=abs(delta) <= sum(known) if len(known) == len(noises) else None,
    )


def stage_medians(columns: Sequence[Measured]) -> list[Row]:
    """Seconds of every stage of rank 0, then Other, then Total, each by itself: medians need not sum to one another."""
    rows = [_row(name, "s", columns, partial(_stage_seconds, name)) for name in _stage_names(columns)]
    other = _row(OTHER, "s", columns, lambda report: report.other_seconds)
    return [*rows, other, _row(TOTAL, "s", columns, lambda report: report.total_seconds)]


def stage_rows(columns: Sequence[Measured]) -> list[Row]:
    """Medians of stages and of Total, with Other as what is left of Total, so that rows sum to it.

    Where runs vary this Other differs from the median of what lay in no stage, and can be below zero.
    """
    *stages, other, total = stage_medians(columns)
    rest: list[Spread | None] = []
    for place, (spread, whole) in enumerate(zip(other.values, total.values, strict=True)):
        named = sum(found.median for row in stages if (found := row.values[place]) is not None)
        left = None if whole is None else whole.median - named
        rest.append(None if spread is None or left is None else msgspec.structs.replace(spread, median=left))
    return [*stages, msgspec.structs.replace(other, values=rest), total]


def memory_rows(columns: Sequence[Measured]) -> list[Row]:
    """Of the rank that needed most. On CUDA the caching allocator's; on a CPU the resident size. Without values: none.

    Overhead is reserved less allocated, and the ratio is overhead / reserved, also of medians.
    """
    reserved = _memory_row("Peak GPU Memory", columns, lambda memory: memory.peak_reserved_bytes)
    allocated = _memory_row("Peak Allocated", columns, lambda memory: memory.peak_allocated_bytes)
    overhead = _memory_row("Memory Overhead", columns, lambda memory: memory.overhead_bytes)
    ratio = _row("Overhead Ratio", "ratio", columns, lambda report: report.worst_memory.overhead_ratio)
    slack: list[Spread | None] = []
    shares: list[Spread | None] = []
    for peak, used, over, share in zip(reserved.values, allocated.values, overhead.values, ratio.values, strict=True):
        if peak is None or used is None or over is None or share is None:
            slack.append(None)
            shares.append(None)
        else:
            left = peak.median - used.median
            slack.append(msgspec.structs.replace(over, median=left))
            shares.append(msgspec.structs.replace(share, median=left / peak.median if peak.median else 0.0))
    rows = [
        reserved,
        allocated,
        msgspec.structs.replace(overhead, values=slack),
        msgspec.structs.replace(ratio, values=shares),
        _memory_row("Peak Resident Memory", columns, lambda memory: memory.peak_resident_bytes),
        _memory_row("Idle Worker", columns, lambda memory: memory.idle_resident_bytes),
        _memory_row("Growth over Idle", columns, lambda memory: memory.resident_growth_bytes),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def wait_rows(columns: Sequence[Measured]) -> list[Row]:
    """Seconds that the rank which waited longest waited for each kind of traffic, and for all kinds."""
    kinds = sorted({kind for column in columns for report in column.reports for kind in report.worst_link})
    rows = [_row(f"Link: {kind}", "s", columns, partial(_waited, kind)) for kind in kinds]
    return [*rows, _row("Link: all", "s", columns, _waited_in_all)] if rows else []


def all_rows(columns: Sequence[Measured]) -> list[Row]:
    """Every row that there is."""
    return stage_rows(columns) + memory_rows(columns) + wait_rows(columns)


def order(columns: Sequence[Measured]) -> list[int]:
    """Places in the order in which columns are shown: those that none is compared with, then the others."""
    asked = {column.reference for column in columns}
    return sorted(range(len(columns)), key=lambda place: (columns[place].reference is None, place in asked))


def _row(name: str, unit: Unit, columns: Sequence[Measured], read: Callable[[RunReport], float | None]) -> Row:
    values = [[value for report in column.reports if (value := read(report)) is not None] for column in columns]
    return Row(name=name, unit=unit, values=[Spread.of(found) for found in values])


def _memory_row(name: str, columns: Sequence[Measured], read: Callable[[MemoryReport], int | None]) -> Row:
    def in_gib(report: RunReport) -> float | None:
        value = read(report.worst_memory)
        return None if value is None else value / GIB

    return _row(name, "GB", columns, in_gib)


def _stage_names(columns: Sequence[Measured]) -> list[str]:
    """All stages, each behind the one that it follows in its own report."""
    names: list[str] = []
    for column in columns:
        for report in column.reports:
            place = 0
            for stage in report.stages:
                if stage.name not in names:
                    names.insert(place, stage.name)
                place = names.index(stage.name) + 1
    return names


def _stage_seconds(name: str, report: RunReport) -> float | None:
    return next((stage.seconds for stage in report.stages if stage.name == name), None)


def _waited(kind: str, report: RunReport) -> float | None:
    return report.worst_link[kind].wait_seconds if kind in report.worst_link else None


def _waited_in_all(report: RunReport) -> float | None:
    if len(report.ranks) == 1:
        return None
    return max(sum(link.wait_seconds for link in rank.link.values()) for rank in report.ranks)
