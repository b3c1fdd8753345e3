"""Rows, sections and the two files: every check is a row, printed as a line of a Markdown table once it is known."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

Verdict = Literal["pass", "FAIL", "info", "not supported", "no result", "cut"]

LEGEND = (
    "pass and FAIL: held against the bound. info: a measurement without a bound. not supported: the code itself says "
    "that it does not run there. no result: an optional measurement that broke; its error stands in its row. "
    "cut: left out because the section's time was spent."
)
MAX_ERROR_CHARS = 300


class DeviceLost(RuntimeError):
    """The CUDA context is broken: nothing more can run in this process."""


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
class Section:
    """Rows under one title, and the time that they may take together."""

    name: str
    budget_seconds: float
    on_row: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.seconds = time.perf_counter() - self.started
        self.on_row(row)

    @property
    def seconds_left(self) -> float:
        return self.budget_seconds - (time.perf_counter() - self.started)

    def attempt(
        self, name: str, check: Callable[[], Iterable[Row]], on_error: Verdict = "FAIL", needs_seconds: float = 0.0
    ) -> None:
        """Add the rows of a check. With less time left than it may need, or when it breaks, the row `name` says so.

        Raises DeviceLost when the error took the CUDA context with it.
        """
        if self.seconds_left <= needs_seconds:
            told = f"may need {needs_seconds:.0f} s; {max(0.0, self.seconds_left):.0f} s of the section's are left"
            return self.add(Row(name, told, verdict="cut"))
        try:
            for row in check():
                self.add(row)
        except Exception as error:  # whatever breaks is a result; the other checks still run
            traceback.print_exc(file=sys.stderr)
            self.add(Row(name, error_line(error), "runs", on_error))
        release_memory()


def error_line(error: BaseException) -> str:
    """An error's type and message on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + " ..."


def release_memory() -> None:
    """Give cached device memory back. Raises DeviceLost where that shows the CUDA context to be broken."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLost(error_line(error)) from None


def within(name: str, measured: str, bound: str, held: bool, **numbers: Any) -> Row:
    """A row that passes where `held` is true."""
    return Row(name, measured, bound, "pass" if held else "FAIL", numbers)


@dataclass
class Report:
    """All sections and their conditions. Written anew after every row, so that what was measured is never lost."""

    folder: Path
    conditions: dict[str, Any]
    sections: list[Section] = field(default_factory=list)

    def start(self, name: str, budget_seconds: float) -> Section:
        """A new section; its rows are printed and written as they come."""
        print("\n".join(["", *_heading(name, self._mark)]), flush=True)
        section = Section(name, budget_seconds, self._on_row)
        self.sections.append(section)
        return section

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(row.verdict for section in self.sections for row in section.rows)

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items())) or "no rows"

    @property
    def _mark(self) -> str:
        return " (self-test: toy sizes, timings mean nothing)" if self.conditions["self_test"] else ""

    def markdown(self) -> str:
        lines = [f"# GPU check{self._mark}", "", LEGEND, "", f"**{self.summary}**", ""]
        lines += [f"- {name}: {value}" for name, value in self.conditions.items()]
        for section in self.sections:
            lines += ["", *_heading(section.name, self._mark), *(row.line() for row in section.rows), ""]
            lines += [f"{section.seconds:.0f} s of {section.budget_seconds:.0f} s."]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write gpu_check.json and gpu_check.md."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sections = [
            {
                "name": section.name,
                "budget_seconds": section.budget_seconds,
                "seconds": section.seconds,
                "rows": [asdict(row) for row in section.rows],
            }
            for section in self.sections
        ]
        plain = {"conditions": self.conditions, "verdicts": dict(self.verdicts), "sections": sections}
        (self.folder / "gpu_check.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        (self.folder / "gpu_check.md").write_text(self.markdown(), encoding="utf-8")

    def _on_row(self, row: Row) -> None:
        print(row.line(), flush=True)
        self.write()


def _heading(name: str, mark: str) -> list[str]:
    return [f"## {name}{mark}", "", "| Check | Measured | Bound | Verdict |", "|---|---|---|---|"]
