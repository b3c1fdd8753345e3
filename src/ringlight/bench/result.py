"""Result: all that a benchmark found, with its conditions, as JSON that can be compared later, and as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Self

import msgspec

from ringlight.bench.agreement import Agreement
from ringlight.bench.expected import Expected
from ringlight.bench.judged import Judged
from ringlight.bench.ratios import Ratio, ratios
from ringlight.bench.sending import Sample
from ringlight.bench.servers import Started
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import RunReport

SCHEMA_VERSION = 1
MEASURED_BYTES = (  # columns of the CSV, of which a run has those that its device and its budget give
    "peak_reserved_bytes",
    "peak_allocated_bytes",
    "peak_resident_bytes",
    "resident_growth_bytes",
    "peak_own_bytes",
)


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """Column of a benchmark: a layout of ours, or a server that runs already. `command` is as one would type it.

    A variant has a name, and `says` what is other in it; it stands `beside` the column of that name, which is exact. Of
    several servers each column has its `server`, and those of later ones stand beside the same column of the first.
    """

    name: str
    layout: str = ""
    command: str = ""
    started: list[Started] = []
    variant: str = ""
    says: str = ""
    beside: str = ""
    server: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a benchmark and their conditions. `baseline` names the column that others are compared with.

    `videos` are those that were kept, from the folder of this file, with their SHA-256. What no server told
    (`model_sha256`, `dtype`, ...) is empty. `is_whole`: every round was sent to its end.
    """

    name: str
    description: str
    workload: dict[str, Any]
    workload_hash: str
    titles: list[str]
    baseline: str
    num_rounds: int
    columns: list[Column]
    samples: list[Sample]
    date: str
    command: str
    machine: dict[str, Any]
    is_whole: bool = True
    agreements: list[Agreement] = []
    judged: list[Judged] = []
    expected: list[Expected] = []
    ratios: list[Ratio] = []
    videos: dict[str, str] = {}
    schema_version: int = SCHEMA_VERSION

    @property
    def reports(self) -> list[RunReport]:
        """Reports of all requests that have one."""
        return [sample.report for sample in self.samples if sample.report is not None]

    @property
    def model(self) -> str:
        return self.environment("model")

    @property
    def model_sha256(self) -> str:
        return next((str(report.workload.get("model_sha256", "")) for report in self.reports), "")

    @property
    def num_failed(self) -> int:
        """Requests that did not become videos, whatever the reason."""
        return sum(sample.fate != "completed" for sample in self.samples)

    def held_to(self, column: Column) -> str:
        """The name of the column that one is compared with; of the baseline its own."""
        return column.beside or self.baseline

    def with_ratios(self) -> Self:
        """Return it with the ratios that follow from its samples."""
        held = {each.name: self.held_to(each) for each in self.columns if each.name != self.baseline}
        return msgspec.structs.replace(self, ratios=ratios(self.samples, held, len(self.titles)))

    def is_later(self, column: Column) -> bool:
        """Whether it is of another server than the first."""
        return column.server != self.columns[0].server

    def environment(self, name: str) -> str:
        """Value from the environment that servers report, by its name; empty if no server reports it."""
        return next((str(report.environment[name]) for report in self.reports if name in report.environment), "")

    def of(self, column: str, kind: int | None = None) -> list[Sample]:
        """The samples of a column, of one kind of request or of all."""
        return [sample for sample in self.samples if sample.column == column and kind in (None, sample.kind)]

    def score(self, column: str) -> tuple[int, int] | None:
        """Number of right aspects of a column's videos, and of all that were judged; None if none could be judged."""
        right = [right for found in self.judged if found.column == column for right in found.right.values()]
        return (sum(right), len(right)) if right else None

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def to_csv(self) -> str:
        """A line for each request: its fate, latency, seconds by stage, peaks, and waits and bytes of the link."""
        rows = [_row(sample) for sample in self.samples]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def read_result(path: Path) -> Result | RunReport:
    """Read the JSON of `ringlight bench` or `ringlight generate --report`. Raises InvalidSetting naming the file."""
    try:
        content = path.read_bytes()
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        fields.pop("ratios", None)  # they follow from samples, and older ones are by another rule
        kind: type[Result] | type[RunReport] = Result if "samples" in fields else RunReport
        found: Result | RunReport = msgspec.json.decode(msgspec.json.encode(fields), type=kind)
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InvalidSetting(f"{path}: neither a benchmark's result nor a report: {error}") from None
    if isinstance(found, Result) and found.schema_version > SCHEMA_VERSION:
        raise InvalidSetting(f"{path}: written by a newer Ringlight (schema {found.schema_version})")
    return found.with_ratios() if isinstance(found, Result) else found


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layout": sample.column,
        "round": sample.round,
        "place": sample.place + 1,
        "request": sample.kind + 1,
        "fate": sample.fate,
        "error": sample.error,
        "latency_seconds": sample.latency_seconds,
    }
    if (report := sample.report) is None:
        return row
    row |= {f"{stage.name}_seconds": stage.seconds for stage in report.stages}
    row |= {"Other_seconds": report.other_seconds, "Total_seconds": report.total_seconds}
    worst = report.worst_memory
    row |= {name: value for name in MEASURED_BYTES if (value := getattr(worst, name)) is not None}
    for kind, link in report.worst_link.items():
        row |= {f"{kind}_wait_seconds": link.wait_seconds, f"{kind}_sent_bytes": link.sent_bytes}
    return row
