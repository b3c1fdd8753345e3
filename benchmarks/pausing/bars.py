"""What was promised beside what was measured, and what a part has to show for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A promise: at most so much, in `unit`. `is_timed`: the smallest size tells nothing of it."""

    name: str
    at_most: float
    measured: float
    unit: str = ""
    is_timed: bool = True

    @property
    def is_kept(self) -> bool:
        return self.measured <= self.at_most

    @property
    def line(self) -> str:
        """As a row of Markdown."""
        verdict = "kept" if self.is_kept else "MISSED"
        return f"| {self.name} | {said(self.at_most, self.unit)} | {said(self.measured, self.unit)} | {verdict} |"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a part has found: its bars, a table of what lies behind them, and what else has to be known of it."""

    bars: list[Bar]
    rows: list[dict[str, Any]]
    notes: dict[str, Any] = {}


def said(value: float, unit: str = "") -> str:
    """A number in its unit, "%" being a share of one."""
    if unit == "%":
        return f"{value:.1%}"
    return f"{value:.3g} {unit}".strip()


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Rows that are alike as lines of Markdown."""
    rows = list(rows)
    if not rows:
        return []
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return lines + [f"| {' | '.join(cell(row[name]) for name in head)} |" for row in rows]


def cell(value: Any) -> str:
    """A value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def bar_table(bars: Iterable[Bar]) -> list[str]:
    """Bars as lines of Markdown."""
    return ["| Bar | At most | Measured | Verdict |", "|---|---:|---:|---|", *(bar.line for bar in bars)]
