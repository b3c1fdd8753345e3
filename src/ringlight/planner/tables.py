"""A plan as Markdown: layouts side by side, the chosen one by stage, by rank and by place, and fleets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringlight.core.plain import in_words, plain
from ringlight.core.report import GIB
from ringlight.planner.fleet import FleetChoice, FleetPlan
from ringlight.planner.places import Place
from ringlight.planner.planner import Choice, Plan
from ringlight.planner.prediction import Prediction
from ringlight.planner.simulate import WITHIN


def plan_tables(plan: Plan) -> str:
    """Render every layout with its seconds, link, memory and reason; then stages and ranks of the chosen one."""
    parts = ["\n".join(_layout_table(plan.choices))]
    if plan.chosen is not None:
        prediction = plan.chosen.prediction
        tables = (_stage_table(prediction), _memory_table(prediction), _place_table(plan.places))
        parts += ["\n".join(table) for table in tables]
    return "\n\n".join(parts)


def _layout_table(choices: Sequence[Choice]) -> Iterator[str]:
    yield (
        "| Layout | Replicas | Denoising (s) | Decoding (s) | Total (s) | Hidden / exposed (s) | Peak (GiB) "
        "| Least at 0 % (GiB) | Least at 5 % (GiB) | Bound |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for choice in choices:
        found = choice.prediction
        seconds = " | ".join(f"{found.seconds(stage) or 0:.2f}" for stage in ("Denoising", "Decoding"))
        link = f"{found.hidden_seconds:.2f} / {found.exposed_seconds:.2f}" if found.num_ranks > 1 else "-"
        sizes = (found.worst_memory.peak_bytes, choice.least_bytes, choice.least_bytes_at_5_percent)
        peaks = " | ".join(f"{size / GIB:.2f}" for size in sizes)
        yield (
            f"| {found.layout} | {choice.num_replicas} | {seconds} | {found.total_seconds:.2f} | {link} "
            f"| {peaks} | {found.bound} |"
        )
    yield ""
    for choice in choices:
        yield f"- {choice.prediction.layout}: {choice.reason}"


def _stage_table(prediction: Prediction) -> Iterator[str]:
    """Yield the table of stages, with seconds of the bus if something comes over it."""
    has_bus = prediction.placement is not None
    bus = (" Bus (s) | Bus exposed (s) |", "---:|---:|") if has_bus else ("", "")
    yield f"| Stage of {prediction.layout} | Seconds | Share | Link (s) | Hidden (s) | Exposed (s) |{bus[0]}"
    yield f"|---|---:|---:|---:|---:|---:|{bus[1]}"
    for stage in prediction.stages:
        share = f"{stage.seconds / prediction.total_seconds:.1%}"
        lanes = [stage.link_seconds, stage.hidden_seconds, stage.exposed_seconds]
        lanes += [stage.bus_seconds, stage.bus_exposed_seconds] if has_bus else []
        yield f"| {stage.name} | {stage.seconds:.4f} | {share} | {' | '.join(f'{lane:.4f}' for lane in lanes)} |"
    lanes = [sum(stage.link_seconds for stage in prediction.stages)]
    lanes += [prediction.hidden_seconds, prediction.exposed_seconds]
    if has_bus:
        lanes += [sum(stage.bus_seconds for stage in prediction.stages), prediction.bus_exposed_seconds]
    total = f"| **Total** | **{prediction.total_seconds:.4f}** | 100% |"
    yield f"{total} {' | '.join(f'{lane:.4f}' for lane in lanes)} |"


def _memory_table(prediction: Prediction) -> Iterator[str]:
    """Yield the table of memory by rank: what always lies there, each stage's own weights, and peaks."""
    names = [*prediction.memory[0].stages]
    columns = [*(f"{name} (GiB)" for name in names), "Peak allocated (GiB)", "Peak (GiB)", "Host (GiB)", "Sent (MiB)"]
    yield f"| Rank | Always (GiB) | {' | '.join(columns)} |"
    yield "|---:|" + "---:|" * (1 + len(columns))
    for memory, sent in zip(prediction.memory, prediction.sent_bytes, strict=True):
        sizes = [memory.idle_bytes, *(memory.stages[name].allocated_bytes for name in names)]
        sizes += [memory.peak_allocated_bytes, memory.peak_bytes, memory.host_bytes]
        cells = " | ".join(f"{size / GIB:.2f}" for size in sizes)
        yield f"| {memory.rank} | {cells} | {sum(sent.values()) / 2**20:.2f} |"
    if prediction.host_copy_bytes:
        yield ""
        which = f"Weights but those of {in_words(prediction.in_files)}" if prediction.in_files else "All weights"
        yield f"{which} lie once in the host's memory, for all ranks: {prediction.host_copy_bytes / GIB:.2f} GiB."


def _place_table(places: Sequence[Place]) -> Iterator[str]:
    yield "| Part | Place | GiB | Why |"
    yield "|---|---|---:|---|"
    for place in places:
        yield f"| {place.part} | {place.place} | {place.num_bytes / GIB:.2f} | {place.why} |"


def fleet_table(fleet: FleetPlan) -> str:
    """Render replicas x layout under a load, best first."""
    is_dated = any(choice.queue.in_time_share is not None for choice in fleet.choices)
    names = ["Fleet", "GPUs", "Order", "Mean (s)", "p50 (s)", "p95 (s)", "p99 (s)", "Mean wait (s)", "p95 wait (s)"]
    names += ["Mean paused (s)", "Pauses a video", "Slowdown", f"Within {WITHIN:g}x"]
    names += [*(["In time"] if is_dated else []), "Busy", "Cost an hour", "Cost a video"]
    rule = "".join("---|" if name in ("Fleet", "Order") else "---:|" for name in names)
    rows = [_fleet_row(choice, is_dated) for choice in fleet.choices]
    told = (
        "Mean wait: until a replica takes a video at first. Paused: after that, while others have its turn. "
        "Both are in the mean."
    )
    return "\n".join([f"| {' | '.join(names)} |", f"|{rule}", *rows, "", told])


def _fleet_row(choice: FleetChoice, is_dated: bool) -> str:
    queue = choice.queue
    latencies = (queue.mean_seconds, queue.p50_seconds, queue.p95_seconds, queue.p99_seconds)
    waits = (queue.mean_wait_seconds, queue.p95_wait_seconds, queue.mean_paused_seconds)
    cells = [f"{seconds:.1f}" for seconds in (*latencies, *waits)]
    cells += [f"{queue.pauses_per_request:.2f}", f"{queue.mean_slowdown:.2f}", f"{queue.within_share:.1%}"]
    if is_dated:
        cells.append("" if queue.in_time_share is None else f"{queue.in_time_share:.1%}")
    told = " | ".join(cells if queue.keeps_up else ["falls behind", *[""] * (len(cells) - 1)])
    costs = (choice.cost_per_hour, choice.cost_per_video)
    hour, video = ("" if cost is None else plain(cost, 4) for cost in costs)
    begin = f"| {choice.name} | {plain(choice.mean_gpus, 3)} | {choice.order} "
    return f"{begin}| {told} | {queue.utilisation:.1%} | {hour} | {video} |"
