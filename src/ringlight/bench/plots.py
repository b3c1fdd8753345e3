"""Charts of a result as PNG: stages side by side, memory by rank, step times, and what is known of one step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ringlight.bench.comparison import columns_of
from ringlight.bench.figures import TOTAL, Measured, stage_rows
from ringlight.bench.result import Result
from ringlight.core.report import GIB, RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP_KINDS = ("ring", "ulysses", "cfg")  # of traffic, that which only Denoising has
COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#008300", "#4a3aa7", "#e34948", "#e87ba4", "#eb6834")
INK, QUIET = "#1f2328", "#6b7280"
COMPUTE, WAIT = "#2a78d6", "#eb6834"
MIN_SHARE = 0.005  # of the longest total, below which a stage is not drawn


def can_draw() -> bool:
    """Whether matplotlib is there (the extra `bench`)."""
    return find_spec("matplotlib") is not None


def draw(result: Result, folder: Path) -> list[tuple[str, str]]:
    """Draw the charts of the first kind of request; return titles and file names of those that have data."""
    columns = [column for column in columns_of(result, 0) if column.reports]
    if not columns:
        return []
    return [
        _stages(columns, folder / "stages.png"),
        _memory(columns, folder / "memory.png"),
        _steps(columns, folder / "steps.png"),
        _one_step(columns, folder / "step.png"),
    ]


def _stages(columns: Sequence[Measured], path: Path) -> tuple[str, str]:
    """Draw seconds as horizontal bars, a group for each stage."""
    rows = stage_rows(columns)
    longest = max(value.value for value in rows[-1].values if value is not None)
    rows = [row for row in rows if any(value and value.value >= MIN_SHARE * longest for value in row.values)]
    figure, axes = _figure(8, 1.2 + 0.32 * len(rows) * (len(columns) + 0.6))
    width = 0.8 / len(columns)
    for place, column in enumerate(columns):
        values = [0.0 if (value := row.values[place]) is None else max(0.0, value.value) for row in rows]
        places = [number + (place - (len(columns) - 1) / 2) * width for number in range(len(rows))]
        bars = axes.barh(places, values, 0.9 * width, color=COLOURS[place % len(COLOURS)], label=column.label)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8, color=QUIET)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.margins(x=0.12)
    _legend(axes, len(columns))
    return _save(figure, axes, path, "Seconds by stage", f"up to {TOTAL}, shorter ones left out")


def _memory(columns: Sequence[Measured], path: Path) -> tuple[str, str]:
    """Draw the peaks of each rank.

    On CUDA the allocator's slack is stacked on allocated memory, on a CPU the growth on idle memory, or private memory
    is shown.
    """
    bars = [(column, rank) for column in columns for rank in range(len(column.reports[-1].ranks))]
    figure, axes = _figure(max(5.0, 1.0 + 0.9 * len(bars)), 3.8)
    memory = [column.reports[-1].ranks[rank].memory for column, rank in bars]
    is_cuda, is_own = (memory[0].peak_reserved_bytes is not None, memory[0].peak_own_bytes is not None)
    below = [
        (each.peak_allocated_bytes or each.idle_resident_bytes or each.peak_own_bytes or 0) / GIB for each in memory
    ]
    above = [(each.overhead_bytes or each.resident_growth_bytes or 0) / GIB for each in memory]
    names = ("allocated", "overhead") if is_cuda else ("a rank's own", "") if is_own else ("idle worker", "growth")
    places = range(len(bars))
    axes.bar(places, below, 0.6, color=COMPUTE, label=names[0])
    top = axes.bar(places, above, 0.6, bottom=below, color=COLOURS[2], label=names[1], edgecolor="white", linewidth=1)
    sums = [f"{low + high:.2f}" for low, high in zip(below, above, strict=True)]
    axes.bar_label(top, sums, padding=3, fontsize=8, color=QUIET)
    axes.set_xticks(places, [f"{column.label}\nrank {rank}" for column, rank in bars])
    axes.set_ylabel("GiB")
    axes.margins(y=0.15)
    _legend(axes, 2)
    return _save(figure, axes, path, "Peak memory by rank", "last run of each column")


def _steps(columns: Sequence[Measured], path: Path) -> tuple[str, str]:
    """Draw the seconds of each denoising step: the mean of all runs, and each run as a thin line."""
    figure, axes = _figure(7, 3.6)
    for place, column in enumerate(columns):
        runs = [report.step_seconds for report in column.reports if report.step_seconds]
        if not runs:
            continue
        colour = COLOURS[place % len(COLOURS)]
        for run in runs:
            axes.plot(range(1, len(run) + 1), run, color=colour, linewidth=0.6, alpha=0.35)
        means = [mean(run[step] for run in runs if step < len(run)) for step in range(max(map(len, runs)))]
        axes.plot(range(1, len(means) + 1), means, color=colour, linewidth=2, label=column.label)
    axes.set_xlabel("denoising step")
    axes.set_ylabel("seconds")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    _legend(axes, len(columns))
    return _save(figure, axes, path, "Seconds of each step", "rank 0; thick: mean of runs, thin: each run")


def _one_step(columns: Sequence[Measured], path: Path) -> tuple[str, str]:
    """Draw a step of each rank, split into waiting and the rest. Reports hold sums, so its order is not known."""
    bars = [(column, rank) for column in columns for rank in range(len(column.reports[0].ranks))]
    figure, axes = _figure(8, 1.6 + 0.4 * len(bars))
    for place, (column, rank) in enumerate(bars):
        seconds, waited = _mean_step(column.reports, rank)
        axes.barh(
            place, seconds - waited, 0.6, color=COMPUTE, label="computing, and sending under it" if not place else None
        )
        axes.barh(
            place, waited, 0.6, left=seconds - waited, color=WAIT, label="" if place else "waiting for other ranks"
        )
        axes.text(seconds, place, f" {seconds:.3f} s, {waited:.3f} waiting", va="center", fontsize=8, color=QUIET)
    axes.set_yticks(range(len(bars)), [f"{column.label} rank {rank}" for column, rank in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.margins(x=0.35)
    _legend(axes, 2)
    kinds = ", ".join(STEP_KINDS)
    note = f"means over steps; waits for {kinds} as sums: when in a step they were is not known"
    return _save(figure, axes, path, "One denoising step", note)


def _mean_step(reports: Sequence[RunReport], rank: int) -> tuple[float, float]:
    """(seconds of a step, of those waited for the traffic that only steps have), means over all runs."""
    steps, waits = [], []
    for report in reports:
        if rank < len(report.ranks) and report.step_seconds:
            steps.append(mean(report.step_seconds))
            link = report.ranks[rank].link
            waited = sum(link[kind].wait_seconds for kind in STEP_KINDS if kind in link)
            waits.append(min(waited / len(report.step_seconds), steps[-1]))
    return (mean(steps), mean(waits)) if steps else (0.0, 0.0)


def _figure(width: float, height: float) -> tuple[Any, Axes]:
    """Create a figure that no display and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _legend(axes: Axes, number: int) -> None:
    """Draw the legend below the chart, where it covers nothing."""
    if number > 1:
        axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=number)


def _save(figure: Any, axes: Axes, path: Path, title: str, note: str) -> tuple[str, str]:
    axes.set_title(f"{title}\n", loc="left", fontsize=11, color=INK)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=8, color=QUIET)
    figure.savefig(path, dpi=130, facecolor="white")
    return title, path.name
