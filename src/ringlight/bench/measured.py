"""Measurements as sections of the page: stages, memory, link, spread, predictions, requests, agreement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ringlight.bench.comparison import columns_of
from ringlight.bench.expected import BANDED_STAGES, ESTIMATED_KINDS, Expected, counted_bytes
from ringlight.bench.figures import (
    TOTAL,
    Measured,
    Row,
    Spread,
    differ,
    memory_rows,
    stage_rows,
    wait_rows,
)
from ringlight.bench.result import Result
from ringlight.bench.tables import BLANK, markdown, memory_table, spread_table, stage_table
from ringlight.core.report import GIB

MIB = 2**20


def tables(result: Result) -> Iterator[str]:
    """Yield the sections of each kind of request."""
    many = len(result.titles) > 1
    for kind, title in enumerate(result.titles):
        columns = columns_of(result, kind)
        of = f", Request {kind + 1}" if many else ""
        yield f"### Stage Time Breakdown{of}"
        if many:
            yield f"{title}."
        yield stage_table(columns, rows := stage_rows(columns))
        if any(column.variant for column in columns):
            yield "A variant is compared with the exact column of its layout."
        if len({column.server for column in result.columns}) > 1:
            yield "A later server is compared with the first, layout by layout, variant by variant."
        runs = ", ".join(f"{len(column.reports)} of `{column.label}`" for column in columns)
        yield (
            f"Runs: {runs}. Shown is the one whose Total is the median (of two in the middle the faster), so that rows "
            "sum to Total; all of them stand under Spread. The device is synchronised at the ends of stages."
        )
        yield f"### Memory Usage{of}"
        if memory := memory_rows(columns):
            yield memory_table(columns, memory)
            yield _memory_note([row.name for row in memory])
        else:
            yield "No server reported its memory."
        yield from _links(result, kind, columns, of)
        yield f"### Spread{of}"
        yield spread_table(columns, rows)
        yield from _noise(columns, rows)
        yield from _expected(result, kind, columns, of)


def _noise(columns: Sequence[Measured], rows: Sequence[Row]) -> Iterator[str]:
    """Yield sentences on differences that are within the noise, and on those that too few rounds tell from it."""
    for place, column in enumerate(columns):
        if column.reference is None:
            continue
        found = {row.name: differ(row.values[place], row.values[column.reference]) for row in rows}
        beside = f"`{columns[column.reference].label}`"
        for is_noise, says in (
            (True, f"these differ from {beside} by no more than rounds do, which overlap"),
            (None, f"too few rounds tell whether these differ from {beside} by more than chance"),
        ):
            names = [f"`{name}`" for name, each in found.items() if each is not None and each.is_noise is is_noise]
            if names:
                yield f"Of `{column.label}`, {says}: {', '.join(names)}."


def _memory_note(names: Sequence[str]) -> str:
    gpu = "reserved and allocated by the caching allocator, reserved less allocated, and that over reserved"
    cpu = "resident memory, for a CPU has no such allocator: at its peak, idle with its weights, and the growth between"
    kinds = [gpu] if "Peak GPU Memory" in names else []
    kinds += [cpu] if "Peak Resident Memory" in names else []
    return f"GB is 2^30 bytes. Of the rank that needed most: {'; '.join(kinds)}."


def _links(result: Result, kind: int, columns: Sequence[Measured], of: str) -> Iterator[str]:
    """Yield the table of waits between ranks, with the bytes sent and those that formulas predict."""
    lines = []
    for column in columns:
        said = {
            found.num_slices: found.sent_bytes
            for found in result.expected
            if (found.column, found.kind) == (column.label, kind)
        }
        waits = {row.name.removeprefix("Link: "): row.values[0] for row in wait_rows([column])}
        for traffic, wait in waits.items():
            sent = [[rank.get(traffic, 0) for rank in counted_bytes(report)] for report in column.reports]
            if traffic == "all" or wait is None or not any(map(any, sent)):
                continue
            formula, verdict = BLANK, BLANK
            if said:
                due = [[rank.get(traffic, 0) for rank in said[report.num_slices]] for report in column.reports]
                formula = f"{max(map(max, due)) / MIB:.2f}"
                verdict = "equal" if sent == due else "estimated" if traffic in ESTIMATED_KINDS else "**not equal**"
            most = max(map(max, sent)) / MIB
            lines.append([f"`{column.label}`", traffic, f"{wait.value:.4f}", f"{most:.2f}", formula, verdict])
    if lines:
        yield f"### Link{of}"
        yield markdown(["Column", "Traffic", "Waited (s)", "Sent (MiB)", "By formula (MiB)", "Bytes"], lines, 2)
        yield (
            "Seconds of the rank that waited longest, bytes of the one that sent most; they are compared rank by rank. "
            "Text is estimated, for the formula does not know how many tokens a prompt has."
        )


def _expected_of(result: Result, column: str, kind: int) -> Expected | None:
    return next((found for found in result.expected if (found.column, found.kind) == (column, kind)), None)


def _expected(result: Result, kind: int, columns: Sequence[Measured], of: str) -> Iterator[str]:
    """Predicted beside measured, where there was a calibration."""
    lines = []
    for column in columns:
        expected = _expected_of(result, column.label, kind)
        if expected is None or expected.stages is None or expected.total_seconds is None:
            continue
        said = expected.stages | {TOTAL: expected.total_seconds}
        for row in stage_rows([column]):
            if (value := row.values[0]) is not None and row.name in said:
                cells = [
                    f"{said[row.name]:.4f}",
                    f"{value.spread.median:.4f}",
                    _error(said[row.name], value.spread.median),
                ]
                name = f"**{row.name}**" if row.name in (*BANDED_STAGES, TOTAL) else row.name
                lines.append([f"`{column.label}`", name, *cells])
        peak = next((row.values[0] for row in memory_rows([column])), None)
        if peak is not None and expected.peak_bytes is not None:
            gib = expected.peak_bytes / GIB
            cells = [f"{gib:.2f}", f"{peak.spread.median:.2f}", _error(gib, peak.spread.median)]
            lines.append([f"`{column.label}`", "Peak (GB)", *cells])
    if lines:
        yield f"### Predicted beside Measured{of}"
        yield markdown(["Column", "Stage / Metric", "Predicted (s)", "Measured, median (s)", "Error"], lines, 2)


def _error(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.1%}" if measured > 0 else BLANK


def requests(result: Result) -> Iterator[str]:
    """Yield the section on how requests over HTTP ended."""
    yield "### Requests over HTTP"
    shown = [column for column in result.columns if column.name != result.baseline]
    shown += [column for column in result.columns if column.name == result.baseline]
    samples = [result.of(column.name) for column in shown]
    fates = ("completed", "failed", "timed_out")
    lines = [["Sent", *(str(len(own)) for own in samples)]]
    for fate in fates:
        name = fate.replace("_", " ").capitalize()
        lines.append([name, *(str(sum(sample.fate == fate for sample in own)) for own in samples)])
    latencies = [sorted(s.latency_seconds for s in own if s.latency_seconds is not None) for own in samples]
    for name, share in (("Latency, median (s)", 0.5), ("Latency, p95 (s)", 0.95), ("Latency, longest (s)", 1.0)):
        lines.append([name, *(_quantile(found, share) for found in latencies)])
    told = [[s.inference_seconds for s in own if s.inference_seconds is not None] for own in samples]
    if any(told):
        lines.append(["Of that at work, says the server, median (s)", *(_quantile(found, 0.5) for found in told)])
    yield markdown(["", *(f"`{column.name}`" for column in shown)], lines)
    yield "Latency is what a client sees: from sending a request to hearing that its video is completed."
    errors = list(dict.fromkeys(f"- `{s.column}`: {s.error}" for s in result.samples if s.error))
    if errors:
        yield "\n".join(errors)


def _quantile(values: Sequence[float], share: float) -> str:
    """Value at a quantile, by nearest rank."""
    if not values:
        return BLANK
    if share == 0.5:
        spread = Spread.of(values)
        return BLANK if spread is None else f"{spread.median:.2f}"
    return f"{values[math.ceil(share * len(values)) - 1]:.2f}"


def agreement(result: Result) -> Iterator[str]:
    """Yield the section on the agreement of layouts' outputs."""
    layouts = {column.name for column in result.columns if not column.beside}
    agreements = [found for found in result.agreements if found.column in layouts]
    if not agreements:
        return
    yield "### Agreement of Outputs"
    lines = []
    for found in agreements:
        psnr = "identical" if found.psnr_db is None else f"{found.psnr_db:.1f}"
        cells = (
            [BLANK, BLANK, found.problem, BLANK]
            if found.problem
            else [str(found.num_frames), str(found.max_difference), psnr, _of_one(found.ssim)]
        )
        lines.append([f"`{found.column}`", str(found.kind + 1), *cells])
    yield markdown(["Column", "Request", "Frames", "Largest difference (of 255)", "PSNR (dB)", "SSIM"], lines)
    yield f"Decoded frames beside those of `{result.baseline}`, same prompt and seed, first round."


def _of_one(value: float | None) -> str:
    return BLANK if value is None else f"{value:.4f}"
