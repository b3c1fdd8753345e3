"""Figures: rows of the page's tables with their spread, for any number of columns side by side.

A column's rows are those of one of its runs, the one whose Total is the median (of two in the middle the faster): so
they belong together and sum to it, which medians of each would not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self

import msgspec

from ringlight.bench.chance import by_round, is_noise
from ringlight.core.report import GIB, MemoryReport, RunReport

Unit = Literal["s", "GB", "ratio", "dB", "of 1"]
OTHER, TOTAL = "Other", "Total"
LIKENESS: dict[str, Unit] = {"PSNR": "dB", "Worst PSNR": "dB", "SSIM": "of 1"}  # to the column that one is held to
JUDGE = "Judge"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Repeated measurements of one thing: their median, least, most, and median absolute deviation."""

    median: float
    low: float
    high: float
    mad: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Summarise values; None if there are none."""
        if not values:
            return None
        median = statistics.median(values)
        mad = statistics.median(abs(value - median) for value in values)
        return cls(median=median, low=min(values), high=max(values), mad=mad, n=len(values))


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Value that a row shows for a column, the spread of all its runs, and the median of each round."""

    value: float
    spread: Spread
    by_round: list[float]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Column with its label, its runs and the round of each, and the index of the column that it is compared with.

    `variant` is what is other in it than exact. `likeness` of its video to that of this other column by rows of
    LIKENESS; where it is empty, `unlike` says why they were not compared. `score`: the share of what prompts ask for
    that it shows.
    """

    label: str
    layout: str
    reports: list[RunReport]
    rounds: list[int]
    reference: int | None = None
    variant: str = ""
    likeness: dict[str, float] = {}
    unlike: str = ""
    score: float | None = None

    @property
    def middle(self) -> RunReport | None:
        """The run whose Total is the median; None without runs."""
        runs = sorted(self.reports, key=lambda report: report.total_seconds)
        return runs[(len(runs) - 1) // 2] if runs else None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Row of a table: a value for each column, None if it has none.

    The row does not apply to the columns whose indices are in `without`.
    """

    name: str
    unit: Unit
    values: list[Figure | None]
    without: list[int] = []


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """Difference between a column and its reference. `ratio` is value / reference, None if either is 0.

    `is_noise`: it may be chance; None where there are too few rounds to tell.
    """

    delta: float
    ratio: float | None
    is_noise: bool | None

    @property
    def speedup(self) -> float | None:
        """Speedup over the reference; None if this took no time."""
        return 1 / self.ratio if self.ratio else None


def differ(one: Figure | None, reference: Figure | None) -> Deviation | None:
    """Deviation of a figure from its reference; None if either is missing."""
    if one is None or reference is None:
        return None
    delta = one.value - reference.value
    positive = one.value > 0 and reference.value > 0
    return Deviation(
        delta=delta,
        ratio=one.value / reference.value if positive else None,
        is_noise=is_noise(one.by_round, reference.by_round),
    )


def stage_rows(columns: Sequence[Measured]) -> list[Row]:
    """Seconds of every stage of rank 0, then Other, then Total."""
    rows = [_row(name, "s", columns, partial(_stage_seconds, name)) for name in _stage_names(columns)]
    other = _row(OTHER, "s", columns, lambda report: report.other_seconds)
    return [*rows, other, _row(TOTAL, "s", columns, lambda report: report.total_seconds)]


def memory_rows(columns: Sequence[Measured]) -> list[Row]:
    """Rows for the rank with the highest peak: the caching allocator's on CUDA, resident or private memory on a CPU."""
    rows = [
        _memory_row("Peak GPU Memory", columns, lambda memory: memory.peak_reserved_bytes),
        _memory_row("Peak Allocated", columns, lambda memory: memory.peak_allocated_bytes),
        _memory_row("Memory Overhead", columns, lambda memory: memory.overhead_bytes),
        _row("Overhead Ratio", "ratio", columns, lambda report: report.worst_memory.overhead_ratio),
        _memory_row("Peak Resident Memory", columns, lambda memory: memory.peak_resident_bytes),
        _memory_row("Idle Worker", columns, lambda memory: memory.idle_resident_bytes),
        _memory_row("Growth over Idle", columns, lambda memory: memory.resident_growth_bytes),
        _memory_row("Peak of a Rank's Own", columns, lambda memory: memory.peak_own_bytes),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def wait_rows(columns: Sequence[Measured]) -> list[Row]:
    """Seconds that the rank which waited longest waited for each kind of traffic, and for all kinds."""
    kinds = sorted({kind for column in columns for report in column.reports for kind in report.worst_link})
    rows = [_row(f"Link: {kind}", "s", columns, partial(_waited, kind)) for kind in kinds]
    return [*rows, _row("Link: all", "s", columns, _waited_in_all)] if rows else []


def likeness_rows(columns: Sequence[Measured]) -> list[Row]:
    """Rows on how close videos are to those of the reference, and on how much of their prompts they show.

    Identical videos have infinite dB. Prompts count in columns that could be judged.
    """
    alone = [place for place, column in enumerate(columns) if column.reference is None]
    rows = []
    if any(column.likeness or column.unlike for column in columns):
        for name, unit in LIKENESS.items():
            values = [_once(column.likeness.get(name)) for column in columns]
            rows.append(Row(name=name, unit=unit, values=values, without=alone))
    if any(column.score is not None for column in columns):
        rows.append(Row(name=JUDGE, unit="ratio", values=[_once(column.score) for column in columns]))
    return rows


def _once(value: float | None) -> Figure | None:
    """Figure of a value that is of the first round alone: by what it differs from round to round is not known."""
    spread = None if value is None else Spread.of([value])
    return None if value is None or spread is None else Figure(value=value, spread=spread, by_round=[value])


def all_rows(columns: Sequence[Measured]) -> list[Row]:
    """All rows of the page's tables."""
    return stage_rows(columns) + memory_rows(columns) + wait_rows(columns) + likeness_rows(columns)


def order(columns: Sequence[Measured]) -> list[int]:
    """Indices of columns in the order in which they are shown: references first, then the others."""
    asked = {column.reference for column in columns}
    return sorted(range(len(columns)), key=lambda place: (columns[place].reference is None, place in asked))


def _row(name: str, unit: Unit, columns: Sequence[Measured], read: Callable[[RunReport], float | None]) -> Row:
    return Row(name=name, unit=unit, values=[_figure(column, read) for column in columns])


def _figure(column: Measured, read: Callable[[RunReport], float | None]) -> Figure | None:
    value = None if column.middle is None else read(column.middle)
    runs = zip(column.rounds, column.reports, strict=True)
    found = [(number, seen) for number, report in runs if (seen := read(report)) is not None]
    spread = Spread.of([seen for _, seen in found])
    if value is None or spread is None:
        return None
    return Figure(value=value, spread=spread, by_round=[*by_round(found).values()])


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
