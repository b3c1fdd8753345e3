"""Rows, parts and the two files: every check is a row, printed as a line of a Markdown table once it is known."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["pass", "FAIL", "info", "not supported", "no result", "cut"]

LEGEND = (
    "pass and FAIL: held against the bound. info: a measurement without a bound. not supported: the code itself says "
    "that it does not run there. no result: an optional measurement that broke; its error stands in its row. "
    "cut: left out because the section's time was spent."
)
MAX_ERROR_CHARS = 300


@dataclass(frozen=True)
class Row:
    """One check. `measured` and `bound` are for people; `numbers` holds the same unrounded: seconds, bytes, FLOP."""

    name: str
    measured: str
    bound: str = ""
    verdict: Verdict = "info"
    numbers: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        cells = (self.name, self.measured, self.bound, self.verdict)
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


@dataclass
class Part:
    """Rows of one section, and the seconds that it was given and took."""

    name: str
    budget_seconds: float
    on_row: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.seconds = time.monotonic() - self.started
        self.on_row(row)


def error_line(error: BaseException) -> str:
    """An error's type and message on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + " ..."


def within(name: str, measured: str, bound: str, held: bool, **numbers: Any) -> Row:
    """A row that passes where `held` is true."""
    return Row(name, measured, bound, "pass" if held else "FAIL", numbers)


@dataclass
class Report:
    """All parts and their conditions. Written anew after every row, so that what was measured is never lost."""

    folder: Path
    conditions: dict[str, Any]
    parts: list[Part] = field(default_factory=list)

    def start(self, name: str, budget_seconds: float) -> Part:
        """A new part; its rows are printed and written as they come."""
        print("\n".join(["", *_heading(name, self._mark)]), flush=True)
        part = Part(name, budget_seconds, self._on_row)
        self.parts.append(part)
        return part

    def learn(self, found: dict[str, Any]) -> None:
        """Conditions, also those that only a check could find."""
        self.conditions |= found
        self.write()

    @property
    def rows(self) -> list[Row]:
        return [row for part in self.parts for row in part.rows]

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(row.verdict for row in self.rows)

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items())) or "no rows"

    @property
    def _mark(self) -> str:
        return " (self-test: toy sizes, timings mean nothing)" if self.conditions.get("self_test") else ""

    def markdown(self) -> str:
        lines = [f"# GPU check{self._mark}", "", LEGEND, "", f"**{self.summary}**", ""]
        lines += [f"- {name}: {value}" for name, value in self.conditions.items()]
        for part in self.parts:
            lines += ["", *_heading(part.name, self._mark), *(row.line() for row in part.rows), ""]
            lines += [f"{part.seconds:.0f} s of {part.budget_seconds:.0f} s."]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write gpu_check.json and gpu_check.md."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [
            {
                "name": part.name,
                "budget_seconds": part.budget_seconds,
                "seconds": part.seconds,
                "rows": [asdict(row) for row in part.rows],
            }
            for part in self.parts
        ]
        plain = {"conditions": self.conditions, "verdicts": dict(self.verdicts), "sections": parts}
        _write_whole(self.folder / "gpu_check.json", json.dumps(plain, indent=2) + "\n")
        _write_whole(self.folder / "gpu_check.md", self.markdown())

    def _on_row(self, row: Row) -> None:
        print(row.line(), flush=True)
        self.write()


def _heading(name: str, mark: str) -> list[str]:
    return [f"## {name}{mark}", "", "| Check | Measured | Bound | Verdict |", "|---|---|---|---|"]


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there as it was or as it is to be, whenever this process is ended."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
