"""Traces as they were played, and as the planner's simulation plays them with their measured seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ringlight.engine.job_state import OUTPUT
from ringlight.planner.simulate import ORDERS as POLICIES
from ringlight.planner.simulate import Demand, play_trace
from ringlight.planner.task import Service

from .bars import Bar, Part
from .sizes import Sizes
from .takes import Site, Take
from .trace import Alone, Played, figures_of, judged, medians, play_all

STEPS = "Denoising"
OFF_BY = 0.15
COMPARED = ("mean, s", "mean slowdown")


def traces(site: Site, sizes: Sizes) -> Part:
    """Play all, and simulate each as it was played."""
    played = play_all(site, sizes)
    simulated = [simulate(run) for run in played]
    part = judged(played, sizes)
    bars, rows = list(part.bars), []
    for row in part.rows:
        runs = [(run, told) for run, told in zip(played, simulated, strict=True) if is_of(run, row)]
        off = {name: off_by(runs, name) for name in COMPARED}
        told = medians([told for _, told in runs])
        rows.append(row | {f"simulated {name}": told[name] for name in COMPARED})
        worst = max(off.values(), key=abs)
        name = f"{row['order']}, load {row['load']}: mean and slowdown as simulated, off by"
        bars.append(Bar(name=name, at_most=OFF_BY, measured=abs(worst), unit="%"))
    return Part(bars=bars, rows=rows, notes=part.notes)


def is_of(run: Played, row: dict[str, Any]) -> bool:
    """Whether a run is one of those that a row sums up."""
    return (run.load, run.order.name) == (row["load"], row["order"])


def off_by(runs: Sequence[tuple[Played, dict[str, float]]], name: str) -> float:
    """How far the simulated figure is from the measured one, over all seeds, as a share of it."""
    measured = statistics.mean(run.figures()[name] for run, _ in runs)
    return statistics.mean(told[name] for _, told in runs) / measured - 1


def simulate(run: Played) -> dict[str, float]:
    """The figures of a run whose jobs came when they did, and took the ranks as long as they did."""
    served = play_trace(
        [take.submitted - run.began for take in run.takes],
        [demand_of(take, run.alone) for take in run.takes],
        POLICIES[run.order.policy],
        run.order.num_replicas,
    )
    return figures_of([each.seconds for each in served], run.arrivals, run.alone)


def demand_of(take: Take, alone: Alone) -> Demand:
    """What a job took of the ranks. Its way to them, and of its file to the disk, are as long as where nobody waits."""
    report = take.report()
    names = [stage.name for stage in report.stages]
    seconds = {stage.name: stage.seconds for stage in report.stages if stage.name != OUTPUT}
    before = sum(seconds[name] for name in names[: names.index(STEPS)])
    service = Service(
        before_seconds=alone.way_seconds + before,
        num_steps=len(report.step_seconds),
        step_seconds=seconds[STEPS] / len(report.step_seconds),
        after_seconds=take.busy_seconds - before - seconds[STEPS],
        output_seconds=alone.output_seconds,
    )
    return Demand(service=service, best_seconds=service.alone_seconds)
