"""A plan as Markdown: layouts side by side, the chosen one by stage, and fleets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringlight.core.plain import plain
from ringlight.core.report import GIB
from ringlight.planner.fleet import FleetChoice, FleetPlan
from ringlight.planner.planner import Choice, Plan
from ringlight.planner.prediction import Prediction


def plan_tables(plan: Plan) -> str:
    """Every layout with its seconds, link, memory and reason; then stages and ranks of the one that is chosen."""
    parts = ["\n".join(_layout_table(plan.choices))]
    if plan.chosen is not None:
        prediction = plan.chosen.prediction
        parts += ["\n".join(_stage_table(prediction)), "\n".join(_memory_table(prediction))]
    return "\n\n".join(parts)


def _layout_table(choices: Sequence[Choice]) -> Iterator[str]:
    yield "| Layout | Replicas | Denoising (s) | Decoding (s) | Total (s) | Hidden / exposed (s) | Peak (GiB) | Bound |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for choice in choices:
        found = choice.prediction
        seconds = " | ".join(f"{found.seconds(stage) or 0:.2f}" for stage in ("Denoising", "Decoding"))
        link = f"{found.hidden_seconds:.2f} / {found.exposed_seconds:.2f}" if found.num_ranks > 1 else "-"
        peak = found.worst_memory.peak_bytes / GIB
        yield (
            f"| {found.layout} | {choice.num_replicas} | {seconds} | {found.total_seconds:.2f} | {link} "
            f"| {peak:.2f} | {found.bound} |"
        )
    yield ""
    for choice in choices:
        yield f"- {choice.prediction.layout}: {choice.reason}"


def _stage_table(prediction: Prediction) -> Iterator[str]:
    yield f"| Stage of {prediction.layout} | Seconds | Share | Link (s) | Hidden (s) | Exposed (s) |"
    yield "|---|---:|---:|---:|---:|---:|"
    for stage in prediction.stages:
        link = f"{stage.link_seconds:.4f} | {stage.hidden_seconds:.4f} | {stage.exposed_seconds:.4f}"
        yield f"| {stage.name} | {stage.seconds:.4f} | {stage.seconds / prediction.total_seconds:.1%} | {link} |"
    link_seconds = sum(stage.link_seconds for stage in prediction.stages)
    link = f"{link_seconds:.4f} | {prediction.hidden_seconds:.4f} | {prediction.exposed_seconds:.4f}"
    yield f"| **Total** | **{prediction.total_seconds:.4f}** | 100% | {link} |"


def _memory_table(prediction: Prediction) -> Iterator[str]:
    yield "| Rank | Weights (GiB) | Denoising (GiB) | Decoding (GiB) | Peak allocated (GiB) | Peak (GiB) | Sent (MiB) |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for memory, sent in zip(prediction.memory, prediction.sent_bytes, strict=True):
        sizes = (
            memory.idle_bytes,
            memory.denoising_bytes,
            memory.decoding_bytes,
            memory.peak_allocated_bytes,
            memory.peak_bytes,
        )
        cells = " | ".join(f"{size / GIB:.2f}" for size in sizes)
        yield f"| {memory.rank} | {cells} | {sum(sent.values()) / 2**20:.2f} |"


def fleet_table(fleet: FleetPlan) -> str:
    """Replicas x layout under a load, best first."""
    lines = [
        "| Fleet | GPUs | p50 (s) | p95 (s) | p99 (s) | Mean wait (s) | Busy | Cost an hour | Cost a video |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *map(_fleet_row, fleet.choices)])


def _fleet_row(choice: FleetChoice) -> str:
    queue = choice.queue
    latencies = (queue.p50_seconds, queue.p95_seconds, queue.p99_seconds, queue.mean_wait_seconds)
    cells = " | ".join(f"{seconds:.1f}" for seconds in latencies) if queue.keeps_up else "falls behind | | |"
    costs = (choice.cost_per_hour, choice.cost_per_video)
    hour, video = ("" if cost is None else plain(cost, 4) for cost in costs)
    return f"| {choice.name} | {choice.num_gpus} | {cells} | {queue.utilisation:.1%} | {hour} | {video} |"
