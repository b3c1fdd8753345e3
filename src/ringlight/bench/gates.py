"""Gates: conditions such as `Total > 1.05x` under which a comparison has failed.

NAME OPERATOR VALUE        NAME is a row of the tables; OPERATOR one of > >= < <=; VALUE one of
  1.05x   value / reference        5%    change against the reference
  63.5    value, in its own unit (also 63.5s, 20GB, 30dB)
  +2pp    difference of a ratio, in percent points
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import msgspec

from ringlight.bench.figures import LIKENESS, Measured, Row, Unit, differ
from ringlight.core.errors import InvalidSetting
from ringlight.core.plain import plain

GRAMMAR = re.compile(
    r"\s*(?P<name>[^<>=]*?)\s*(?P<sign>[<>]=?)\s*(?P<number>[-+]?[0-9]+(?:\.[0-9]+)?)\s*(?P<measure>[a-zA-Z%]*)\s*"
)
Measure = Literal["x", "%", "pp", "s", "GB", "dB", ""]
RELATIVE = ("x", "%", "pp")
SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that fails a comparison where it is true."""

    text: str
    name: str
    sign: str
    number: float
    measure: Measure

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Parse a gate. Raises InvalidSetting, which says what gates look like."""
        match = GRAMMAR.fullmatch(text)
        if match is None or not match["name"]:
            raise InvalidSetting(
                f'fail-if {text!r} is not NAME OPERATOR VALUE, such as "Total > 1.05x" or "Peak Allocated > 20GB"; '
                f"operators are {' '.join(SIGNS)}"
            )
        measures = {measure.lower(): measure for measure in get_args(Measure)}
        if match["measure"].lower() not in measures:
            known = ", ".join(repr(measure) for measure in measures.values() if measure)
            raise InvalidSetting(f"fail-if {text!r}: {match['measure']!r} is none of {known}")
        return cls(
            text=text.strip(),
            name=match["name"],
            sign=match["sign"],
            number=float(match["number"]),
            measure=measures[match["measure"].lower()],
        )

    def verdicts(self, columns: Sequence[Measured], rows: Sequence[Row], held: Sequence[int]) -> Iterator[GateVerdict]:
        """Yield the verdict on each of the columns `held` but the baseline; absolute gates accept a single column.

        Raises InvalidSetting where there is no such row, or nothing in it to be held to the gate.
        """
        row = self._row(rows)
        about = [place for place in held if place not in row.without]
        found = [place for place in about if columns[place].reference is not None]
        if not found and self.measure not in RELATIVE:
            found = about
        if not found:
            raise InvalidSetting(f"fail-if {self.text!r} needs two columns to compare")
        for place in found:
            yield self._verdict(row, columns, place)

    def _row(self, rows: Sequence[Row]) -> Row:
        by_name = {row.name.lower(): row for row in rows}
        row = by_name.get(self.name.lower())
        if row is None:
            near = difflib.get_close_matches(self.name.lower(), by_name, 3, cutoff=0.5)
            names = ", ".join(by_name[name].name for name in near or by_name)
            there = f"nearest: {names}; all are in the tables of `ringlight compare`" if near else f"there are {names}"
            raise InvalidSetting(f"fail-if {self.text!r}: there is no row {self.name!r} here ({there})")
        units: dict[str, Unit] = {"s": "s", "GB": "GB", "dB": "dB", "pp": "ratio"}
        if units.get(self.measure, row.unit) != row.unit:
            raise InvalidSetting(f"fail-if {self.text!r}: {row.name} is not measured in {self.measure}")
        return row

    def _verdict(self, row: Row, columns: Sequence[Measured], place: int) -> GateVerdict:
        column, value = columns[place], row.values[place]
        reference = None if column.reference is None else row.values[column.reference]
        difference = differ(value, reference)
        found: float | None = None if value is None else value.value
        if self.measure in RELATIVE:
            found = None if difference is None else 100 * difference.delta
            if self.measure != "pp":
                ratio = None if difference is None else difference.ratio
                found = ratio if ratio is None or self.measure == "x" else 100 * (ratio - 1)
        if found is None:
            reason = f": {column.unlike}" if column.unlike and row.name in LIKENESS else ""
            raise InvalidSetting(
                f"fail-if {self.text!r}: {row.name} of {column.label} or its reference is not known{reason}"
            )
        is_noise = self.measure in RELATIVE and difference is not None and difference.is_noise is not False
        return GateVerdict(
            gate=self,
            column=column.label,
            found=found,
            has_failed=SIGNS[self.sign](found, self.number),
            is_noise=is_noise,
        )


class GateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict of a gate on a column. `is_noise`: the difference may be noise; the gate counts all the same."""

    gate: Gate
    column: str
    found: float
    has_failed: bool
    is_noise: bool

    def __str__(self) -> str:
        said = "failed" if self.has_failed else "passed"
        noise = ", a difference that may be noise" if self.is_noise else ""
        has = "is identical" if math.isinf(self.found) else f"has {plain(self.found, 4)}{self.gate.measure}"
        return f"{said}: {self.gate.text}: {self.column} {has}{noise}"


def in_lines(verdicts: Iterable[GateVerdict]) -> str:
    """Verdicts, a line each."""
    return "\n".join(f"- {verdict}" for verdict in verdicts)
