"""Figures as Markdown tables, in the columns and the formatting of the published page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ringlight.bench.chance import RULE
from ringlight.bench.figures import TOTAL, Deviation, Figure, Measured, Row, differ, order

BLANK = "-"
NOISE, UNKNOWN = "~", "?"
LEGEND = f"{NOISE} noise. {UNKNOWN} too few rounds to tell. {RULE}"


def stage_table(columns: Sequence[Measured], rows: Sequence[Row], marks: bool = False) -> str:
    """Seconds side by side, with the speedup of each column over the one it is compared with."""
    return _table("Stage / Metric", "(s)", "Speedup", columns, [_stage_line(columns, row, marks) for row in rows])


def memory_table(columns: Sequence[Measured], rows: Sequence[Row], marks: bool = False) -> str:
    """GiB side by side, as GB like the page's, with differences; of ratios in percent points."""
    return _table("Memory Metric", "(GB)", "Delta", columns, [_memory_line(columns, row, marks) for row in rows])


def likeness_table(columns: Sequence[Measured], rows: Sequence[Row]) -> str:
    """Likeness of videos to those of the reference, side by side."""
    shown = order(columns)
    lines = [[row.name, *(_likeness(row, place) for place in shown)] for row in rows]
    return markdown(["Videos", *(title(columns, place) for place in shown)], lines)


def spread_table(columns: Sequence[Measured], rows: Sequence[Row]) -> str:
    """Medians with least, most and median absolute deviation."""
    shown = order(columns)
    head = [f"{title(columns, place)}: median (min-max), MAD" for place in shown]
    lines = [[row.name, *(_spread(row.values[place]) for place in shown)] for row in rows]
    return markdown(["Stage / Metric (s)", *head], lines)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Render a table whose first `texts` columns are texts, and the others numbers."""
    rule = "|".join("---" if place < texts else "---:" for place in range(len(head)))
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)])


def title(columns: Sequence[Measured], place: int) -> str:
    """Heading of a column in a table."""
    baseline = " baseline" if len(columns) > 1 and columns[place].reference is None else ""
    return f"`{columns[place].label}`{baseline}"


def _table(first: str, unit: str, compared: str, columns: Sequence[Measured], lines: Iterable[Sequence[str]]) -> str:
    shown = order(columns)
    named = [place for place in shown if columns[place].reference is not None]
    heads = [compared] if len(named) == 1 else [f"{compared} of `{columns[place].label}`" for place in named]
    return markdown([first, *(f"{title(columns, place)} {unit}" for place in shown), *heads], lines)


def _differences(columns: Sequence[Measured], row: Row) -> list[Deviation | None]:
    """Deviations of the columns that have a reference, in the order in which they are shown."""
    return [
        differ(row.values[place], row.values[reference])
        for place in order(columns)
        if (reference := columns[place].reference) is not None
    ]


def _stage_line(columns: Sequence[Measured], row: Row, marks: bool) -> list[str]:
    is_total = row.name == TOTAL
    values = [row.values[place] for place in order(columns)]
    cells = [BLANK if value is None else f"{value.value:.2f}" if is_total else f"{value.value:.4f}" for value in values]
    for found in _differences(columns, row):
        speedup = None if found is None else found.speedup
        cells.append(BLANK if speedup is None else f"{speedup:.2f}x")
    cells = [row.name, *cells]
    if is_total:
        cells = [f"**{cell}**" for cell in cells]
    return _marked(cells, columns, row) if marks else cells


def _memory_line(columns: Sequence[Measured], row: Row, marks: bool) -> list[str]:
    values = [row.values[place] for place in order(columns)]
    is_ratio = row.unit == "ratio"
    cells = [BLANK if value is None else f"{value.value:.1%}" if is_ratio else f"{value.value:.2f}" for value in values]
    for found in _differences(columns, row):
        cells.append(BLANK if found is None else delta_text(found.delta, is_ratio))
    cells = [row.name, *cells]
    return _marked(cells, columns, row) if marks else cells


def delta_text(delta: float, is_ratio: bool) -> str:
    """A difference with its sign: of ratios in percent points."""
    return f"{100 * delta:+.1f}pp" if is_ratio else f"{delta:+.2f}"


def _marked(cells: list[str], columns: Sequence[Measured], row: Row) -> list[str]:
    """Mark the cells whose difference may be noise."""
    differences = _differences(columns, row)
    first = len(cells) - len(differences)
    return cells[:first] + [
        cell if cell.strip("*") == BLANK else f"{cell}{mark(found)}"
        for cell, found in zip(cells[first:], differences, strict=True)
    ]


def mark(found: Deviation | None) -> str:
    """The sign of a difference: none where it is larger than noise."""
    if found is None or found.is_noise is False:
        return ""
    return f" {UNKNOWN if found.is_noise is None else NOISE}"


def _likeness(row: Row, place: int) -> str:
    value = row.values[place]
    if value is None:
        return BLANK
    forms = {"ratio": f"{value.value:.1%}", "dB": f"{value.value:.1f} dB"}
    return "identical" if math.isinf(value.value) else forms.get(row.unit, f"{value.value:.4f}")


def _spread(figure: Figure | None) -> str:
    if figure is None:
        return BLANK
    spread = figure.spread
    return f"{spread.median:.4f} ({spread.low:.4f}-{spread.high:.4f}), {spread.mad:.4f}"
