"""A section at work: checks one after another, each of which gives rows, until its time is over."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu.report import Row, Verdict, error_line

Message = Row | str | dict[str, Any]  # a row; the name of the check that begins; conditions that were found


class DeviceLost(RuntimeError):
    """The CUDA context is broken: nothing more can run in this process."""


@dataclass
class Section:
    """What checks are given: the moment (of time.monotonic) when the section's process is ended, whatever it does then;
    rows of the sections before it; and where what it finds goes."""

    ends_at: float
    earlier: list[Row]
    say: Callable[[Message], None]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.say(row)

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def number(self, start_of_name: str, number: str) -> float | None:
        """A number of the first row, of this section or one before it, whose name starts so; None without one."""
        found = (row.numbers.get(number) for row in [*self.earlier, *self.rows] if row.name.startswith(start_of_name))
        return next((value for value in found if value is not None), None)

    def attempt(
        self, name: str, check: Callable[[], Iterable[Row]], on_error: Verdict = "FAIL", needs_seconds: float = 0.0
    ) -> None:
        """Add the rows of a check. With less time left than it may need, or when it breaks, the row `name` says so.

        Raises DeviceLost when the error took the CUDA context with it.
        """
        if self.seconds_left <= needs_seconds:
            told = f"may need {needs_seconds:.0f} s; {max(0.0, self.seconds_left):.0f} s of the section's are left"
            return self.add(Row(name, told, verdict="cut"))
        self.say(name)
        try:
            for row in check():
                self.add(row)
        except Exception as error:  # whatever breaks is a result; the other checks still run
            traceback.print_exc(file=sys.stderr)
            self.add(Row(name, error_line(error), "runs", on_error))
        release_memory()


def release_memory() -> None:
    """Give cached device memory back. Raises DeviceLost where that shows the CUDA context to be broken."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLost(error_line(error)) from None
