"""Figures and tables: the published page's rows from its numbers, identities on every report, and what is noise."""

from __future__ import annotations

import itertools
import random

import pytest

from ringlight.bench import chance
from ringlight.bench.figures import Measured, Spread, differ, memory_rows, stage_rows, wait_rows
from ringlight.bench.tables import memory_table, spread_table, stage_table
from ringlight.core.report import LinkReport
from tests.bench.reports import cuda_memory, measured, page_report, report, run

PAGE_STAGE_TABLE = """\
| Stage / Metric | `u1r2` (s) | `u1r1` baseline (s) | Speedup |
|---|---:|---:|---:|
| InputValidation | 0.1060 | 0.1029 | 0.97x |
| TextEncoding | 1.3965 | 2.2261 | 1.59x |
| LatentPreparation | 0.0002 | 0.0002 | 1.00x |
| TimestepPreparation | 0.0003 | 0.0004 | 1.33x |
| Denoising | 52.6358 | 71.6785 | 1.36x |
| Decoding | 7.6708 | 13.4314 | 1.75x |
| Other | 1.9304 | 3.1905 | 1.65x |
| **Total** | **63.74** | **90.63** | **1.42x** |"""
PAGE_MEMORY_TABLE = """\
| Memory Metric | `u1r2` (GB) | `u1r1` baseline (GB) | Delta |
|---|---:|---:|---:|
| Peak GPU Memory | 20.07 | 27.40 | -7.33 |
| Peak Allocated | 13.35 | 20.40 | -7.05 |
| Memory Overhead | 6.72 | 7.00 | -0.28 |
| Overhead Ratio | 33.5% | 25.6% | +7.9pp |"""

COLUMNS = [
    measured("u1r1", page_report("u1r1")),
    measured("u1r2", page_report("u1r2"), reference=0),
]


def test_the_published_page_follows_from_its_numbers() -> None:
    """Every row that it has, and Other, which it leaves out."""
    assert stage_table(COLUMNS, stage_rows(COLUMNS)) == PAGE_STAGE_TABLE
    assert memory_table(COLUMNS, memory_rows(COLUMNS)) == PAGE_MEMORY_TABLE


def noisy_columns(seed: int) -> list[Measured]:
    """Three columns with five runs each, as from a busy machine."""
    draw = random.Random(seed)
    columns = []
    for place, layout in enumerate(("u1r1", "u1r2", "c2u1r1")):
        reports = []
        for _ in range(5):
            seconds = {name: draw.uniform(0.5, 2) for name in ("TextEncoding", "Denoising", "Decoding")}
            allocated = draw.uniform(10, 15)
            memory = [cuda_memory(rank, allocated + draw.uniform(0, 5), allocated) for rank in (0, 1)]
            link = {kind: LinkReport(sent_bytes=1, wait_seconds=draw.random()) for kind in ("ring", "halo")}
            other = draw.uniform(0, 0.2)
            reports.append(report(layout, seconds, other, memory, link if place else None))
        columns.append(measured(layout, *reports, reference=0 if place else None))
    return columns


@pytest.mark.parametrize("seed", range(20))
def test_identities_hold_where_runs_vary(seed: int) -> None:
    """Rows sum to Total, which is the median of totals; overhead, ratio, speedups and differences follow."""
    columns = noisy_columns(seed)
    *rows, total = stage_rows(columns)
    by_name = {row.name: row.values for row in memory_rows(columns)}
    for place, column in enumerate(columns):
        found = total.values[place]
        assert found is not None
        assert found.value == found.spread.median == sorted(each.total_seconds for each in column.reports)[2]
        values = [value.value for row in rows if (value := row.values[place]) is not None]
        assert len(values) == len(rows) and min(values) > 0
        assert sum(values) == pytest.approx(found.value, rel=1e-12)
        reserved, allocated, overhead, ratio = (
            value.value for values in by_name.values() if (value := values[place]) is not None
        )
        assert overhead == pytest.approx(reserved - allocated, rel=1e-9)
        assert ratio == pytest.approx(overhead / reserved, rel=1e-9)
    for row in (*rows, total):
        value, base = row.values[1], row.values[0]
        difference = differ(value, base)
        assert value is not None and base is not None and difference is not None
        assert difference.delta == value.value - base.value
        assert difference.speedup == pytest.approx(base.value / value.value)


def test_all_runs_stand_in_the_spread() -> None:
    columns = noisy_columns(3)[:1]
    others = sorted(each.other_seconds for each in columns[0].reports)
    assert f"| Other | {others[2]:.4f} ({others[0]:.4f}-{others[4]:.4f})" in spread_table(columns, stage_rows(columns))


def test_of_two_runs_in_the_middle_the_faster_is_shown() -> None:
    runs = [run("u1r1", seconds) for seconds in (4.0, 1.0, 3.0, 2.0)]
    assert measured("u1r1", *runs).middle is runs[3]
    assert measured("u1r1").middle is None


def test_a_spread_is_median_range_and_deviation() -> None:
    assert Spread.of([]) is None
    found = Spread.of([5.0, 1.0, 2.0])
    assert found == Spread(median=2.0, low=1.0, high=5.0, mad=1.0, n=3)


@pytest.mark.parametrize(
    ("values", "others", "is_noise"),
    [
        ([1.0, 1.2], [1.1, 1.3], True),
        ([1.0, 1.0, 1.5], [1.4, 1.4, 1.4], True),  # a busy moment of the faster one
        ([1.0, 1.1], [1.2] * 4, None),
        ([1.0] * 3, [1.2] * 3, None),  # in 1 of 10 comparisons by chance
        ([1.0] * 3, [1.2] * 5, False),
        ([1.0] * 4, [1.0001] * 4, False),
        ([1.0], [1.4, 1.5], None),
        ([1.4], [1.4, 1.5], None),
    ],
)
def test_what_is_noise(values: list[float], others: list[float], is_noise: bool | None) -> None:
    assert chance.is_noise(values, others) is chance.is_noise(others, values) is is_noise


@pytest.mark.parametrize(("num_rounds", "share"), [(3, 1 / 10), (4, 1 / 35), (5, 1 / 126)])
def test_equal_sides_are_apart_as_often_as_is_said(num_rounds: int, share: float) -> None:
    """Every way to deal values out; where the rule says that there is more than chance, it is so in 1 of 20 at most."""
    values = range(2 * num_rounds)
    dealt = [
        (one, [value for value in values if value not in one]) for one in itertools.combinations(values, num_rounds)
    ]
    apart = [max(one) < min(other) or max(other) < min(one) for one, other in dealt]
    assert sum(apart) / len(apart) == pytest.approx(share)
    found = [chance.is_noise(one, other) for one, other in dealt]
    assert found == [(False if share <= 1 / 20 else None) if each else True for each in apart]


def test_marks_stand_behind_differences_that_may_be_noise() -> None:
    slow = [run("u1r1", seconds) for seconds in (4.0, 4.2, 4.1, 4.3)]
    fast = [run("u1r2", seconds) for seconds in (2.0, 2.1, 2.2, 2.3)]
    columns = [
        measured("a", *slow),
        measured("b", *fast, reference=0),
        measured("c", run("u1r1", 4.05), reference=0),
    ]
    lines = stage_table(columns, stage_rows(columns), marks=True).splitlines()
    assert lines[0].endswith("| Speedup of `b` | Speedup of `c` |")
    assert "| `a` baseline (s) |" in lines[0]
    denoising, decoding = lines[2].split(" | "), lines[3].split(" | ")
    assert denoising[-2:] == ["1.95x", "1.01x ? |"]
    assert decoding[-2:] == ["1.00x ~", "1.00x ? |"]


def test_what_is_not_known_is_blank() -> None:
    """Columns without reports, stages that one of them does not run, memory that nobody measured."""
    with_image = report("u1r1", {"TextEncoding": 0.1, "ImageEncoding": 0.2, "Denoising": 1.0, "Decoding": 1.0})
    without = report("u1r2", {"TextEncoding": 0.1, "Denoising": 1.0, "Decoding": 1.0})
    columns = [
        measured("mute"),
        measured("t2v", without, reference=0),
        measured("i2v", with_image, reference=0),
    ]
    rows = stage_rows(columns)
    names = [row.name for row in rows]
    assert names == ["TextEncoding", "ImageEncoding", "Denoising", "Decoding", "Other", "Total"]
    assert "| ImageEncoding | - | 0.2000 | - | - | - |" in stage_table(columns, rows)
    assert "| **Total** | **2.20** | **2.40** | **-** | **-** | **-** |" in stage_table(columns, rows)
    assert [row.name for row in memory_rows(columns)] == ["Peak Resident Memory", "Idle Worker", "Growth over Idle"]
    assert memory_rows(columns[:1]) == []


def test_waits_are_the_worst_ranks() -> None:
    link = {"ring": LinkReport(sent_bytes=5, wait_seconds=0.5), "halo": LinkReport(sent_bytes=5, wait_seconds=0.25)}
    columns = [measured("u1r2", run("u1r2", 2.0, link=link))]
    values = {row.name: row.values[0] for row in wait_rows(columns)}
    assert {name: value.value for name, value in values.items() if value} == {
        "Link: halo": 0.25,
        "Link: ring": 0.5,
        "Link: all": 0.75,
    }
