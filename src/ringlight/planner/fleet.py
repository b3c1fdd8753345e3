"""Replicas x layout for a stream of requests: every layout simulated on all GPUs, or the fewest that keep a promise."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.replicas import ReplicaRange
from ringlight.families.work import Work
from ringlight.planner.machine import Machine
from ringlight.planner.planner import layouts
from ringlight.planner.prediction import Prediction, predict
from ringlight.planner.simulate import ORDERS, Demand, Load, Order, QueueResult, mixed, simulate
from ringlight.planner.sizing import START_SECONDS
from ringlight.planner.task import Service

MAX_RANKS = 16  # of one replica: more ranks for one video are slower than more videos at once


class Kind(msgspec.Struct, frozen=True):
    """Request of a mix, how often it comes beside the others, and what its place in the queue depends on."""

    work: Work
    weight: float = 1.0
    client: str = ""
    priority: int = 0
    timeout_seconds: float | None = None


class FleetChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of a layout under a load, which they take in this order, on `num_gpus` at most.

    `cost_per_video` is in the currency of the price of a GPU hour.
    """

    layout: str
    order: Order
    num_gpus: int
    mean_gpus: float
    queue: QueueResult
    cost_per_hour: float | None = None
    cost_per_video: float | None = None

    @property
    def name(self) -> str:
        return f"{ReplicaRange(self.queue.least_replicas, self.queue.num_replicas)} x {self.layout}"

    @property
    def least_gpus(self) -> int:
        """Smallest number of GPUs with which it would keep up."""
        return self.queue.needed_replicas * (self.num_gpus // self.queue.num_replicas)


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Fleets, best first; `chosen` is None if no fleet keeps up, or none keeps the promise."""

    choices: list[FleetChoice]
    chosen: FleetChoice | None


def plan_fleet(
    kinds: Sequence[Kind],
    machine: Machine,
    load: Load,
    *,
    orders: Sequence[Order] = ("shortest",),
    p95_seconds: float | None = None,
    gpu_price: float | None = None,
    num_replicas: ReplicaRange | None = None,
    start_seconds: float = START_SECONDS,
) -> FleetPlan:
    """Plan a fleet for each number of ranks: the fastest layout that all kinds fit on, in each of the orders.

    As many replicas as the GPUs hold take the load; the lowest mean is best.

    With a promise (`p95_seconds`) each layout gets the fewest replicas that keep it, and the fewest GPUs are best. With
    a range of `num_replicas`, which take `start_seconds` to start, that stands beside every fixed number in it.
    """
    choices = []
    fastest = _fastest(kinds, machine)
    best_seconds = [min(each.total_seconds for each in found) for found in zip(*fastest.values(), strict=True)]
    for layout, predictions in fastest.items():
        draw = mixed([kind.weight for kind in kinds], list(map(_demand, kinds, predictions, best_seconds)))
        for order in orders:
            most = machine.most_ranks // layout.num_ranks
            if num_replicas is None:
                queues = [_queue(draw, order, most, load, p95_seconds)]
            else:
                sizes = [size for size in _sizes(num_replicas) if size.most <= most]
                queues = [simulate(load, size, draw, ORDERS[order], start_seconds=start_seconds) for size in sizes]
            choices += [_choice(layout, order, queue, load, gpu_price) for queue in queues]

    def place(choice: FleetChoice) -> tuple[float, ...]:
        late = p95_seconds is not None and choice.queue.p95_seconds > p95_seconds
        gpus = choice.mean_gpus if p95_seconds is not None else 0
        behind = 0.0 if choice.queue.keeps_up else choice.queue.offered
        return (behind, late, gpus, choice.queue.mean_seconds)

    choices.sort(key=place)
    good = [choice for choice in choices if not any(place(choice)[:2])]
    return FleetPlan(choices=choices, chosen=good[0] if good else None)


def _sizes(asked: ReplicaRange) -> Sequence[ReplicaRange]:
    """A range, and every fixed number in it."""
    fixed = [ReplicaRange(number, number) for number in range(max(1, asked.least), asked.most + 1)]
    return fixed if asked.is_fixed else [*fixed, asked]


def _fastest(kinds: Sequence[Kind], machine: Machine) -> dict[ParallelLayout, list[Prediction]]:
    """Layout on which the mix is fastest, for each number of ranks, with the predictions of its kinds."""
    found: dict[int, tuple[float, ParallelLayout, list[Prediction]]] = {}
    guidance = any(kind.work.request.uses_guidance for kind in kinds)
    for layout in layouts(kinds[0].work.spec, min(machine.most_ranks, MAX_RANKS), guidance):
        predictions = [predict(kind.work, layout, machine) for kind in kinds]
        if all(prediction.fits for prediction in predictions):
            seconds = sum(k.weight * p.total_seconds for k, p in zip(kinds, predictions, strict=True))
            if layout.num_ranks not in found or seconds < found[layout.num_ranks][0]:
                found[layout.num_ranks] = (seconds, layout, predictions)
    return {layout: predictions for _, layout, predictions in found.values()}


def _demand(kind: Kind, prediction: Prediction, best_seconds: float) -> Demand:
    """Demand of a kind on a replica."""
    return Demand(
        service=service_of(kind.work, prediction),
        best_seconds=best_seconds,
        client=kind.client,
        priority=kind.priority,
        due_seconds=kind.timeout_seconds,
    )


def service_of(work: Work, prediction: Prediction) -> Service:
    """Seconds that a request takes of its replica, split by when it can be paused."""
    steps = work.request.num_inference_steps
    denoising, decoding, output = (prediction.seconds(name) or 0.0 for name in ("Denoising", "Decoding", "Output"))
    return Service(
        before_seconds=prediction.total_seconds - denoising - decoding - output,
        num_steps=steps,
        step_seconds=denoising / steps,
        after_seconds=decoding,
        output_seconds=output,
    )


def _queue(
    draw: Callable[[random.Random], Demand],
    order: Order,
    most: int,
    load: Load,
    p95_seconds: float | None,
) -> QueueResult:
    """Simulate the queue before `most` replicas, or before the fewest that keep the promise, found by halving."""
    result = simulate(load, most, draw, ORDERS[order])
    if p95_seconds is None or not result.keeps_up or result.p95_seconds > p95_seconds:
        return result
    low, high = int(result.offered * most), most  # fewer would fall behind
    while high - low > 1:
        middle = (low + high) // 2
        tried = simulate(load, middle, draw, ORDERS[order])
        if tried.keeps_up and tried.p95_seconds <= p95_seconds:
            high, result = middle, tried
        else:
            low = middle
    return result


def _choice(
    layout: ParallelLayout, order: Order, queue: QueueResult, load: Load, gpu_price: float | None
) -> FleetChoice:
    num_gpus = queue.num_replicas * layout.num_ranks
    mean_gpus = queue.mean_replicas * layout.num_ranks
    per_hour = None if gpu_price is None else gpu_price * mean_gpus
    per_video = None if per_hour is None or not queue.keeps_up else per_hour / 3600 / load.rate
    return FleetChoice(
        layout=layout.name,
        order=order,
        num_gpus=num_gpus,
        mean_gpus=mean_gpus,
        queue=queue,
        cost_per_hour=per_hour,
        cost_per_video=per_video,
    )
