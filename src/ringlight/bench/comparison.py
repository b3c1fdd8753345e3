"""Comparison: saved results side by side, once it is sure that they are of the same work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ringlight.bench.agreement import Agreement, agree
from ringlight.bench.figures import LIKENESS, Measured, all_rows, likeness_rows, memory_rows, stage_rows, wait_rows
from ringlight.bench.gates import Gate, GateVerdict
from ringlight.bench.kept import find_video
from ringlight.bench.result import Result, read_result
from ringlight.bench.tables import LEGEND, likeness_table, memory_table, stage_table
from ringlight.core.errors import InvalidSetting, OutputError
from ringlight.core.report import RunReport

MAX_DIFFERENCES = 6  # named of two workloads
OTHER_TIMES = (
    "These files were measured at different times: what else the machine did then is in every ratio, and no repetition "
    "shows it. `ringlight bench --url A --url B` measures servers in turns."
)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of one kind of request. `held`: indices of those that gates are about, all of a single file's."""

    title: str
    columns: list[Measured]
    held: list[int]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Results that stand side by side. `warnings` is what makes that questionable, `notes` how it is to be read."""

    parts: list[Part]
    warnings: list[str]
    notes: list[str] = []

    def to_markdown(self) -> str:
        """Render the warnings, then the page's tables with marks."""
        lines = [*(f"**{warning}**" for warning in self.warnings)]
        for part in self.parts:
            if len(self.parts) > 1:
                lines.append(f"### {part.title}")
            rows = stage_rows(part.columns) + wait_rows(part.columns)
            lines.append(stage_table(part.columns, rows, marks=True))
            if memory := memory_rows(part.columns):
                lines.append(memory_table(part.columns, memory, marks=True))
            if likeness := likeness_rows(part.columns):
                lines.append(likeness_table(part.columns, likeness))
            if references := [*_references(part.columns), *_unlike(part.columns)]:
                lines.append("\n".join(references))
        return "\n\n".join([*lines, *self.notes, LEGEND])

    def verdicts(self, gates: Sequence[Gate]) -> list[GateVerdict]:
        """Verdicts of gates, once of what is of all requests. Raises InvalidSetting for what is not there."""
        found = (
            verdict
            for part in self.parts
            for gate in gates
            for verdict in gate.verdicts(part.columns, all_rows(part.columns), part.held)
        )
        return list(dict.fromkeys(found))


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Results of one file, and where it lies.

    `fields` are of its first run, and `hashes` identify its work. LoRAs of its runs are by kind of request, since a
    server may have one for every video, whatever a workload says.
    """

    name: str
    path: Path
    found: Result | RunReport
    fields: dict[str, Any]
    hashes: frozenset[str]
    loras: dict[int, Any]
    model: str
    dtypes: str
    device: str


def compare(paths: Sequence[Path], force: bool) -> Comparison:
    """Compare the results of files. Later ones are compared with the first's same layout, else with its baseline.

    Raises InvalidSetting where workloads, models or dtypes differ; with `force` it warns of that instead.
    """
    sources = [_source(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    problems = [problem for source in sources[1:] for problem in _problems(sources[0], source)]
    if problems and not force:
        raise InvalidSetting(f"{'; '.join(problems)} (--force compares them all the same)")
    warnings = [f"Not the same work: {problem}." for problem in problems]
    warnings += [
        f"Not the same device: {source.name} ran on {source.device}, {sources[0].name} on {sources[0].device}."
        for source in sources[1:]
        if source.device != sources[0].device
    ]
    warnings += [
        f"{source.name} is not whole: it was interrupted, or requests failed."
        for source in sources
        if isinstance(source.found, Result) and (not source.found.is_whole or source.found.num_failed)
    ]
    num_kinds = max(len(source.found.titles) if isinstance(source.found, Result) else 1 for source in sources)
    notes = [OTHER_TIMES] if len(sources) > 1 else []
    return Comparison(parts=[_part(sources, kind) for kind in range(num_kinds)], warnings=warnings, notes=notes)


def columns_of(result: Result, kind: int, name: str = "") -> list[Measured]:
    """Columns of a result for one kind of request, each with the column that it is compared with.

    That is the baseline; for variants the exact column; for a later server the same of the first. `name` goes before
    each label.
    """
    places = [column.name for column in result.columns]
    held = [places.index(result.held_to(column)) for column in result.columns]
    agreements = {found.column: found for found in result.agreements if found.kind == kind}
    scores = [result.score(column) for column in places]
    runs = [
        [(sample.report, sample.round) for sample in result.of(column, kind) if sample.report is not None]
        for column in places
    ]
    return [
        Measured(
            label=f"{name} {column.name}" if name else column.name,
            layout=column.layout,
            reports=[report for report, _ in runs[place]],
            rounds=[number for _, number in runs[place]],
            reference=None if place == held[place] else held[place],
            variant=column.says,
            likeness=_likeness(agreements[column.name]) if column.name in agreements else {},
            unlike=agreements[column.name].problem if column.name in agreements else "",
            score=None if (score := scores[place]) is None else score[0] / score[1],
        )
        for place, column in enumerate(result.columns)
    ]


def _likeness(agreement: Agreement) -> dict[str, float]:
    """PSNR and SSIM by their rows in LIKENESS. Identical videos have infinite dB; older results have PSNR alone."""
    if agreement.problem:
        return {}
    values = [math.inf if psnr is None else psnr for psnr in (agreement.psnr_db, agreement.worst_psnr_db)]
    found = dict(zip(LIKENESS, values, strict=False))
    return {"PSNR": values[0]} if agreement.ssim is None else found | {"SSIM": agreement.ssim}


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names of files, each with as much of its path as tells it from the others."""
    for part in (lambda path: path.stem, lambda path: f"{path.absolute().parent.name}/{path.stem}"):
        names = [part(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}:{path.stem}" for number, path in enumerate(paths, 1)]


def _source(path: Path, name: str) -> Source:
    found = read_result(path)
    reports = found.reports if isinstance(found, Result) else [found]
    said = [report.environment for report in reports]
    first = said[0] if said else {}
    hashes = {report.workload_hash for report in reports}
    return Source(
        name=name,
        path=path,
        found=found,
        fields=reports[0].workload if reports else {},
        hashes=frozenset(hashes | ({found.workload_hash} if isinstance(found, Result) else set())),
        loras=_loras(found),
        model=next((str(report.workload.get("model_sha256", "")) for report in reports), ""),
        dtypes=f"{first.get('dtype', '')} with a VAE in {first.get('vae_dtype', '')}" if first else "",
        device=str(first.get("device", "")),
    )


def _loras(found: Result | RunReport) -> dict[int, Any]:
    """LoRAs in the first report of each kind of request; a lone report has none; its hash covers them."""
    if isinstance(found, RunReport):
        return {}
    reports = [(sample.kind, sample.report) for sample in found.samples if sample.report is not None]
    return {kind: report.workload.get("lora", []) for kind, report in reversed(reports)}


def _problems(first: Source, other: Source) -> Iterator[str]:
    """Yield the reasons why two files are not of the same work. A fact that either file lacks is no reason."""
    both_results = isinstance(first.found, Result) and isinstance(other.found, Result)
    same = first.found.workload_hash == other.found.workload_hash if both_results else first.hashes & other.hashes
    if first.model and other.model and first.model != other.model:
        yield f"{other.name} is of another model than {first.name} ({other.model[:8]}, {first.model[:8]})"
    if first.dtypes and other.dtypes and first.dtypes != other.dtypes:
        yield f"{other.name} is in {other.dtypes}, {first.name} in {first.dtypes}"
    for kind in first.loras.keys() & other.loras.keys() if same else ():
        if found := [*_differing(other.loras[kind], first.loras[kind], "lora")]:
            yield f"{other.name} has other LoRAs in request {kind + 1} than {first.name} ({', '.join(found)})"
    if not same:
        mine, its = (source.found.workload if both_results else source.fields for source in (first, other))
        found = [line for line in _differing(its, mine) if not line.startswith("model_sha256")]
        more = f" and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
        named = ", ".join(found[:MAX_DIFFERENCES]) + more
        if named or first.model == other.model:
            yield f"{other.name} is of another workload than {first.name} ({named or 'their hashes differ'})"


def _differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield each path at which two plain values differ, with the value in `one` and the value in `other`."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            yield from _differing(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (mine, its) in enumerate(zip(one, other, strict=True), 1):
            yield from _differing(mine, its, f"{path} {place}")
    elif one != other:
        yield f"{path} {_shown(one)} and not {_shown(other)}"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _part(sources: Sequence[Source], kind: int) -> Part:
    """Columns of a kind of request; the first file's come first, and its baseline is the reference of all."""
    title, columns = "", list[Measured]()
    layouts = Counter(layout for source in sources for layout in _layouts(source.found))
    is_plain = max(layouts.values()) == 1
    first: list[Measured] = []
    for source in sources:
        name = "" if is_plain else source.name
        if isinstance(source.found, Result):
            own = columns_of(source.found, kind, name) if kind < len(source.found.titles) else []
            title = title or (source.found.titles[kind] if own else "")
        else:
            label = f"{name} {source.found.layout}" if name else source.found.layout
            only = Measured(label=label, layout=source.found.layout, reports=[source.found], rounds=[1])
            own = [only] if kind == 0 else []
        if source is sources[0]:
            first = own
        else:
            own = [_held(column, place, source, sources[0], first, kind) for place, column in enumerate(own)]
        columns += own
    held = range(len(first) if len(sources) > 1 else 0, len(columns))
    return Part(title=title or f"Request {kind + 1}", columns=columns, held=list(held))


def _held(
    column: Measured, place: int, source: Source, first: Source, columns: Sequence[Measured], kind: int
) -> Measured:
    """A column of a later file as it is held to one of the first, its video too."""
    reference = _reference(column, columns)
    if reference is None:
        return msgspec.structs.replace(column, reference=None, likeness={}, unlike="")
    try:
        if not _is_same_request(source.found, first.found, kind):
            raise OutputError("their requests differ")
        video = find_video(source.path, source.found, _layouts(source.found)[place], kind)
        other = find_video(first.path, first.found, _layouts(first.found)[reference], kind)
        if video.samefile(other):
            raise OutputError(f"both files name the same video, {video}")
        found = agree(column.label, kind, video, other)
    except OutputError as error:
        found = Agreement(column=column.label, kind=kind, problem=str(error))
    return msgspec.structs.replace(column, reference=reference, likeness=_likeness(found), unlike=found.problem)


def _is_same_request(one: Result | RunReport, other: Result | RunReport, kind: int) -> bool:
    """Whether the videos of both that are compared are of the same request and seed."""
    if isinstance(one, Result) and isinstance(other, Result):
        names = ("arrival_seed", "fresh_prompts")
        mine, its = ([found.workload["requests"][kind], *map(found.workload.get, names)] for found in (one, other))
        return bool(mine == its)
    return _made(one, kind) == _made(other, kind)


def _made(found: Result | RunReport, kind: int) -> dict[str, Any]:
    """The request of a report, or of the video that a result keeps, whatever model made it."""
    reports = [found] if isinstance(found, RunReport) else []
    if isinstance(found, Result):
        kept = [sample for sample in found.samples if (sample.round, sample.place) == (1, kind)]
        reports = [sample.report for sample in kept if sample.report is not None]
    return {name: value for name, value in reports[0].workload.items() if name != "model_sha256"} if reports else {}


def _layouts(found: Result | RunReport) -> list[str]:
    return [column.name for column in found.columns] if isinstance(found, Result) else [found.layout]


def _reference(column: Measured, first: Sequence[Measured]) -> int | None:
    """Index of the first file's column that another file's column is compared with."""
    what = (column.layout, column.variant)
    same = [place for place, other in enumerate(first) if (other.layout, other.variant) == what]
    baseline = [place for place, other in enumerate(first) if other.reference is None]
    return next(iter(same + baseline), None)


def _references(columns: Sequence[Measured]) -> Iterator[str]:
    """Yield which column each column is compared with, if there are several references."""
    asked = {column.reference for column in columns if column.reference is not None}
    for column in columns:
        if column.reference is not None and len(asked) > 1:
            yield f"- `{column.label}` is compared with `{columns[column.reference].label}`"
        if not column.reports:
            yield f"- `{column.label}` has no reports"


def _unlike(columns: Sequence[Measured]) -> Iterator[str]:
    """Yield a line for each reason why videos were not compared."""
    for reason in dict.fromkeys(column.unlike for column in columns if column.unlike):
        names = [f"`{column.label}`" for column in columns if column.unlike == reason]
        yield f"- Videos of {', '.join(names)} were not compared: {reason}."
