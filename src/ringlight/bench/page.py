"""The page: a benchmark's result as Markdown, in the sections of the page that we set out from, and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ringlight.bench.beside import judge_sentences, judged, variants
from ringlight.bench.comparison import columns_of
from ringlight.bench.figures import Spread
from ringlight.bench.measured import agreement, requests, tables
from ringlight.bench.result import Column, Result
from ringlight.bench.summary import sentences
from ringlight.bench.tables import markdown
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB

PROMPT_CHARS = 100  # of what is shown of a text
DISCLAIMER = (
    "These benchmarks are provided for reference under one specific setup and command configuration. Actual "
    "performance may vary with model settings, runtime environment, and request patterns."
)


def to_markdown(result: Result, charts: Sequence[tuple[str, str]] = ()) -> str:
    """Render the page. `charts` are titles and file names of pictures beside it."""
    sections = [
        *_head(result),
        "## Benchmark Setup",
        _setup(result),
        "## Online Serving",
        *_serving(result),
        "## Workload",
        *_workload(result),
        "## Environment",
        _environment(result),
        "## Benchmarks",
        "### Benchmark Disclaimer",
        DISCLAIMER,
        *tables(result),
        *requests(result),
        *agreement(result),
        *variants(result),
        *judged(result),
    ]
    if charts:
        sections += ["### Charts", *(f"![{title}]({name})" for title, name in charts)]
    return "\n\n".join([*sections, "## Summary", *_summary(result)]) + "\n"


def kind_of(layout: str) -> str:
    """Heading of a layout: the kinds of parallelism that it uses."""
    if not layout:
        return "Server"
    degrees = ParallelLayout.parse(layout)
    parts = [("Ulysses", degrees.ulysses), ("Ring", degrees.ring)]
    sequence = " x ".join(name for name, degree in parts if degree > 1)
    names = (["Guidance Branches"] if degrees.cfg > 1 else []) + ([f"{sequence} SP"] if sequence else [])
    return " and ".join(names) or "One Rank"


def _head(result: Result) -> Iterator[str]:
    others = [column for column in result.columns if column.name != result.baseline]
    kind = _kind(others)
    names = ", ".join(column.name for column in others)
    model = result.model or "a server"
    if others:
        yield f"# {kind} Benchmark: {model} ({names} vs Baseline)"
        yield f"This page reports the performance of `{names}` beside `{result.baseline}` for `{model}` using:"
    else:
        yield f"# Benchmark: {model} ({result.baseline})"
        yield f"This page reports the performance of `{model}` using:"
    baseline = next(column for column in result.columns if column.name == result.baseline)
    configs = [("Variant" if column.beside else "Parallel", column) for column in others] + [("Baseline", baseline)]
    yield "\n".join(f"- {what} config: {_config(column)}" for what, column in configs)
    if not result.is_whole:
        yield "**This benchmark was interrupted: what follows is what was measured until then.**"
    if result.num_failed:
        yield f"**{result.num_failed} of {len(result.samples)} requests failed; they are in no median.**"


def _kind(others: Sequence[Column]) -> str:
    """Heading for the columns that are compared with the baseline."""
    layouts = [column for column in others if not column.beside]
    names = [] if not layouts else [kind_of(layouts[0].layout) if len(layouts) == 1 else "Layouts"]
    return " and ".join([*names, *(["Variants"] if len(layouts) < len(others) else [])])


def _config(column: Column) -> str:
    if column.beside:
        return f"`{column.says}` (short: `{column.name}`)"
    if not column.layout:
        return f"`{column.name}` (its layout is not known)"
    layout = ParallelLayout.parse(column.layout)
    branches = f"cfg={layout.cfg}, " if layout.cfg > 1 else ""
    return f"`{branches}sp={layout.sp}, ulysses={layout.ulysses}, ring={layout.ring}` (short: `{column.layout}`)"


def _setup(result: Result) -> str:
    dtype, vae_dtype = result.environment("dtype"), result.environment("vae_dtype")
    devices = max((len(report.ranks) for report in result.reports), default=0)
    device, cores = result.environment("device"), result.machine.get("cores")
    if result.environment("device_type") == "cpu":
        what = f"CPU: `{device}`, {cores} cores for at most {devices} ranks"
    else:
        what = f"GPU: `{device} * {devices}`" if device else "Device: not known"
    lines = [
        f"- Model: `{result.model or 'not known'}`",
        f"- {what}",
        f"- Precision: {dtype or 'not known'}, VAE {vae_dtype or 'not known'}",
        *_budget(result),
        f"- Rounds: {result.num_rounds}; every layout once a round, in an order that turns from round to round",
        f"- Date: {result.date}",
    ]
    return "\n".join(lines)


def _budget(result: Result) -> Iterator[str]:
    """Yield the memory budget of a rank, if there is one."""
    if budget := next((report.environment.get("memory_budget_bytes") for report in result.reports), None):
        yield f"- Memory budget: {budget / GIB:.2f} GiB a rank"


def _serving(result: Result) -> Iterator[str]:
    commands = {column.name: column.command for column in result.columns}
    for column in sorted(result.columns, key=lambda column: column.name == result.baseline):
        if column.beside and column.command == commands[column.beside]:
            continue  # it is sent to the exact one's server
        what = "Baseline" if column.name == result.baseline else kind_of(column.layout)
        what = "Variant" if column.beside else what
        yield f"### {what} (`{column.name}`)"
        yield f"```bash\n{column.command}\n```" if column.command else "A server that ran already."
        if column.started:
            ready = Spread.of([started.ready_seconds for started in column.started])
            assert ready is not None, "there is a start"
            yield (
                f"Started anew for every round, on a free port with a data folder of its own; ready in "
                f"{ready.median:.1f} s."
            )
    yield "### Benchmark Command"
    yield f"```bash\n{result.command}\n```"


def _workload(result: Result) -> Iterator[str]:
    content = result.workload
    yield f"{result.name}: {result.description}" if result.description else result.name
    kinds: list[dict[str, Any]] = content["requests"]
    names = list(dict.fromkeys(name for request in kinds for name in request))
    head = ["Field", *(f"Request {number}" for number in range(1, len(kinds) + 1))]
    yield markdown(head, [[name, *(_text(request.get(name)) for request in kinds)] for name in names], len(head))
    if content["arrival_rate"]:
        how = f"at random moments, {content['arrival_rate']:g} a second (Poisson, seed {content['arrival_seed'] or 0})"
    else:
        how = f"{content['concurrency']} at a time, each after the end of the one before"
    fresh = (
        "; every prompt ends with a number of its own, so that none is in a cache" if content["fresh_prompts"] else ""
    )
    yield (
        f"In a round: {content['warm_up']} to warm up, not counted, then {content['repeats']} x {len(kinds)} requests, "
        f"{how}{fresh}. SHA-256 of the workload: `{result.workload_hash}`."
    )


def _text(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:  # a picture
        return f"{value['bytes']} bytes, SHA-256 {value['sha256'][:12]}"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(part)}" for name, part in value.items())
    text = "none" if value in (None, "") else " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= PROMPT_CHARS else f"{text[: PROMPT_CHARS - 3]}..."


def _environment(result: Result) -> str:
    told: dict[str, Any] = next((dict(report.environment) for report in result.reports), {})
    versions = told.pop("versions", {})
    for name in ("device", "dtype", "vae_dtype", "model"):
        told.pop(name, None)
    said = result.machine | told | {f"{name} version": version for name, version in versions.items()}
    lines = [[name, f"{value:.4g}" if isinstance(value, float) else _text(value)] for name, value in said.items()]
    return markdown(["Of the machine and the workers", ""], lines, 2)


def _summary(result: Result) -> Iterator[str]:
    for kind, title in enumerate(result.titles):
        if len(result.titles) > 1:
            yield f"Request {kind + 1} ({title}):"
        agreements = [found for found in result.agreements if found.kind == kind]
        yield "\n".join(f"- {sentence}" for sentence in sentences(columns_of(result, kind), agreements))
    if said := [*judge_sentences(result)]:
        yield "\n".join(f"- {sentence}" for sentence in said)
