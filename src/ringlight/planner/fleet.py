"""Replicas x layout for a stream of requests: every layout simulated on all GPUs, or the fewest that keep a promise."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.families.work import Work
from ringlight.planner.machine import Machine
from ringlight.planner.planner import layouts
from ringlight.planner.prediction import Prediction, predict
from ringlight.planner.simulate import Load, QueueResult, mixed, simulate

MAX_RANKS = 16  # of one replica: more ranks for one video are slower than more videos at once


class Kind(msgspec.Struct, frozen=True):
    """A request of a mix, and how often it comes beside the others."""

    work: Work
    weight: float = 1.0


class FleetChoice(msgspec.Struct, frozen=True, kw_only=True):
    """So many replicas of a layout under a load. `cost_per_video` in the currency of the price of a GPU hour."""

    layout: str
    num_gpus: int
    queue: QueueResult
    cost_per_hour: float | None = None
    cost_per_video: float | None = None

    @property
    def name(self) -> str:
        return f"{self.queue.num_replicas} x {self.layout}"


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Best first; `chosen` is None where no fleet keeps up, or none keeps the promise."""

    choices: list[FleetChoice]
    chosen: FleetChoice | None


def plan_fleet(
    kinds: Sequence[Kind],
    machine: Machine,
    load: Load,
    *,
    p95_seconds: float | None = None,
    gpu_price: float | None = None,
) -> FleetPlan:
    """For each number of ranks, the fastest layout that all kinds fit on, and the queue before as many replicas as the
    GPUs hold: lowest p95 is best.

    With a promise (`p95_seconds`) each layout gets the fewest replicas that keep it, and the fewest GPUs are best.
    """
    choices = []
    for layout, predictions in _fastest(kinds, machine).items():
        queue = _queue(predictions, kinds, machine.most_ranks // layout.num_ranks, load, p95_seconds)
        choices.append(_choice(layout, queue, load, gpu_price))

    def order(choice: FleetChoice) -> tuple[float, ...]:
        late = p95_seconds is not None and choice.queue.p95_seconds > p95_seconds
        gpus = choice.num_gpus if p95_seconds is not None else 0
        behind = 0.0 if choice.queue.keeps_up else choice.queue.offered
        return (behind, late, gpus, choice.queue.p95_seconds)

    choices.sort(key=order)
    good = [choice for choice in choices if not any(order(choice)[:2])]
    return FleetPlan(choices=choices, chosen=good[0] if good else None)


def _fastest(kinds: Sequence[Kind], machine: Machine) -> dict[ParallelLayout, list[Prediction]]:
    """For each number of ranks the layout on which the mix takes least, with the predictions of its kinds."""
    found: dict[int, tuple[float, ParallelLayout, list[Prediction]]] = {}
    guidance = any(kind.work.request.uses_guidance for kind in kinds)
    for layout in layouts(kinds[0].work.spec, min(machine.most_ranks, MAX_RANKS), guidance):
        predictions = [predict(kind.work, layout, machine) for kind in kinds]
        if all(prediction.fits for prediction in predictions):
            seconds = sum(k.weight * p.total_seconds for k, p in zip(kinds, predictions, strict=True))
            if layout.num_ranks not in found or seconds < found[layout.num_ranks][0]:
                found[layout.num_ranks] = (seconds, layout, predictions)
    return {layout: predictions for _, layout, predictions in found.values()}


def _queue(
    predictions: list[Prediction],
    kinds: Sequence[Kind],
    most: int,
    load: Load,
    p95_seconds: float | None,
) -> QueueResult:
    """The queue before `most` replicas, or before the fewest that keep the promise, found by halving."""
    service = mixed([kind.weight for kind in kinds], [prediction.total_seconds for prediction in predictions])
    result = simulate(load, most, service)
    if p95_seconds is None or not result.keeps_up or result.p95_seconds > p95_seconds:
        return result
    low, high = int(result.offered * most), most  # fewer would fall behind
    while high - low > 1:
        middle = (low + high) // 2
        tried = simulate(load, middle, service)
        if tried.keeps_up and tried.p95_seconds <= p95_seconds:
            high, result = middle, tried
        else:
            low = middle
    return result


def _choice(layout: ParallelLayout, queue: QueueResult, load: Load, gpu_price: float | None) -> FleetChoice:
    num_gpus = queue.num_replicas * layout.num_ranks
    per_hour = None if gpu_price is None else gpu_price * num_gpus
    per_video = None if per_hour is None or not queue.keeps_up else per_hour / 3600 / load.rate
    return FleetChoice(
        layout=layout.name, num_gpus=num_gpus, queue=queue, cost_per_hour=per_hour, cost_per_video=per_video
    )
