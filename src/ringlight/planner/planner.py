"""Plan: every layout that the GPUs allow, which one is best for an objective, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from ringlight.core.errors import InvalidLayout
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.planner.advice import nearest_that_fits
from ringlight.planner.least import Least
from ringlight.planner.machine import Machine
from ringlight.planner.places import Place, places
from ringlight.planner.prediction import Prediction, predict

Objective = Literal["latency", "throughput", "memory"]
ALIKE = 0.01  # layouts this close cannot be told apart by a model; the one that sends least is taken


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Layout, how many replicas of it the GPUs hold, what is predicted, and a line on why it was chosen or not.

    `least_bytes` and `least_bytes_at_5_percent`: the smallest budgets with which Denoising and Decoding take as long as
    with all on the device, and 5 % longer.
    """

    prediction: Prediction
    num_replicas: int
    least_bytes: int
    least_bytes_at_5_percent: int
    reason: str = ""

    @property
    def videos_per_hour(self) -> float:
        """Throughput of all replicas together."""
        return 3600 * self.num_replicas / self.prediction.total_seconds


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Choices, best first, those that do not fit last.

    `chosen` is None if none fits; `places` are where its parts lie, on the rank that has most.
    """

    objective: Objective
    choices: list[Choice]
    chosen: Choice | None
    places: list[Place] = []


def plan(work: Work, machine: Machine, objective: Objective = "latency") -> Plan:
    """Compare all layouts of 1 to `machine.most_ranks` ranks. Raises InvalidLayout for no GPU.

    latency: fewest seconds for one video. throughput: most videos an hour with as many replicas as the GPUs hold.
    memory: smallest peak on any rank.
    """
    num_gpus = machine.most_ranks
    if num_gpus < 1:
        raise InvalidLayout(f"num-gpus must be at least 1, not {num_gpus}")
    choices = [_choice(work, layout, machine) for layout in layouts(work.spec, num_gpus, work.request.uses_guidance)]
    choices.sort(key=lambda choice: (not choice.prediction.fits, *_rank(choice, objective)))
    fitting = [choice for choice in choices if choice.prediction.fits]
    best = _least_sending(fitting, objective) if fitting else None
    explained = [
        msgspec.structs.replace(
            choice,
            reason=_why(choice, best, objective) if choice.prediction.fits else _why_not(work, choice, machine),
        )
        for choice in choices
    ]
    chosen = explained[choices.index(best)] if best else None
    where = []
    if chosen is not None:
        prediction = chosen.prediction
        where = places(work, ParallelLayout.parse(prediction.layout), machine, prediction.plan)
    return Plan(objective=objective, choices=explained, chosen=chosen, places=where)


def _choice(work: Work, layout: ParallelLayout, machine: Machine) -> Choice:
    least = Least(work, layout, machine)
    return Choice(
        prediction=predict(work, layout, machine),
        num_replicas=machine.most_ranks // layout.num_ranks,
        least_bytes=least.bytes(0.0),
        least_bytes_at_5_percent=least.bytes(0.05),
    )


def layouts(spec: ModelSpec, num_gpus: int, guidance: bool) -> Iterator[ParallelLayout]:
    """Every layout of 1 to `num_gpus` ranks that the model and the request allow."""
    for num_ranks in range(1, num_gpus + 1):
        for cfg in (1, 2) if guidance else (1,):
            for ulysses in range(1, min(num_ranks, spec.transformer.num_attention_heads) + 1):
                ring, rest = divmod(num_ranks, cfg * ulysses)
                if ring and not rest:
                    yield ParallelLayout(cfg=cfg, ulysses=ulysses, ring=ring)


def _rank(choice: Choice, objective: Objective) -> tuple[float, ...]:
    """Rank of a choice: smaller is better; the total decides between equals."""
    total = choice.prediction.total_seconds
    if objective == "throughput":
        return (-choice.videos_per_hour, total)
    if objective == "memory":
        return (float(choice.prediction.worst_memory.peak_bytes), total)
    return (total,)


def _least_sending(fitting: list[Choice], objective: Objective) -> Choice:
    """Choice whose ranks send least, among those that are as good as the first."""
    best = _rank(fitting[0], objective)[0]
    alike = [choice for choice in fitting if abs(_rank(choice, objective)[0] - best) <= ALIKE * abs(best)]
    return min(alike, key=lambda choice: max(sum(sent.values()) for sent in choice.prediction.sent_bytes))


def _why(choice: Choice, best: Choice | None, objective: Objective) -> str:
    assert best is not None, "a choice that fits is compared with the best of those that do"
    mine, its = choice.prediction, best.prediction
    if choice == best:
        return f"chosen: {_merit(choice, objective)}"
    if objective == "memory" and mine.worst_memory.peak_bytes > (1 + ALIKE) * its.worst_memory.peak_bytes:
        more = (mine.worst_memory.peak_bytes - its.worst_memory.peak_bytes) / GIB
        return f"{more:.1f} GiB more on its largest rank than {its.layout}"
    if objective == "throughput":
        share = choice.videos_per_hour / best.videos_per_hour
        idle = f", {left} GPUs idle" if (left := _idle(choice, best)) else ""
        return f"{share:.2f} of the videos an hour{idle}; {_cause(mine)}"
    if abs(mine.total_seconds - its.total_seconds) <= ALIKE * its.total_seconds:
        return f"as fast as {its.layout} to 1 %, and sends more" if mine.num_ranks > 1 else f"as fast as {its.layout}"
    ratio = mine.total_seconds / its.total_seconds
    if mine.num_ranks < its.num_ranks:
        return f"{ratio:.2f}x as long: {mine.num_ranks} of {its.num_ranks} GPUs"
    return f"{ratio:.2f}x as long; {_cause(mine)}"


def _idle(choice: Choice, best: Choice) -> int:
    used = choice.num_replicas * choice.prediction.num_ranks
    return max(0, best.num_replicas * best.prediction.num_ranks - used)


def _merit(choice: Choice, objective: Objective) -> str:
    prediction = choice.prediction
    if objective == "throughput":
        return f"{choice.videos_per_hour:.0f} videos an hour, the most"
    if objective == "memory":
        return f"{prediction.worst_memory.peak_bytes / GIB:.1f} GiB on its largest rank, the least"
    waits = [f"{prediction.exposed_seconds:.1f} s wait for the link"] if prediction.num_ranks > 1 else []
    if prediction.placement is not None:
        waits.append(f"{prediction.bus_exposed_seconds:.1f} s for what the host has")
    said = f"{prediction.total_seconds:.1f} s, the least"
    return f"{said}, of which {' and '.join(waits)}" if waits else said


def _cause(prediction: Prediction) -> str:
    """Cause of the time that a layout of several ranks loses."""
    if prediction.num_ranks == 1:
        return "nothing is split"
    return f"{prediction.exposed_seconds:.1f} s wait for the link, {prediction.hidden_seconds:.1f} s are hidden"


def _why_not(work: Work, choice: Choice, machine: Machine) -> str:
    """Memory that a layout lacks, and the nearest change with which the request fits."""
    prediction = choice.prediction
    needed = prediction.worst_memory.peak_bytes / GIB
    said = f"does not fit: {needed:.1f} GiB of {prediction.usable_bytes / GIB:.1f}"
    nearest = nearest_that_fits(work, ParallelLayout.parse(prediction.layout), machine)
    return f"{said}; would with {nearest.flags}" if nearest else f"{said}, nor would less"
