"""The same arrivals of films and clips under several orders, in turns: how long each waits for the others."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ringlight.planner.simulate import percentile

from .bars import Bar, Part
from .orders import ARRIVAL, ARRIVAL_APART, PAUSING, SHORTEST, Order
from .sizes import Fields, Sizes
from .takes import Site, Take

CLIPS_SHARE = 0.8
JUDGED_LOAD = 0.7
PROMISES = (  # a figure with pauses is at most so much of another order's
    ("mean slowdown", 0.35, ARRIVAL),
    ("mean slowdown", 0.5, SHORTEST),
    ("films' mean, s", 1.1, ARRIVAL),
)
WITHIN = 3.0  # times as long as alone


@dataclass(frozen=True)
class Arrival:
    """A job that comes so many seconds after the first moment."""

    at: float
    is_film: bool


@dataclass(frozen=True)
class Alone:
    """Seconds of a job with the two ranks to itself, from being asked for to being there: of which `way_seconds` until
    they begin, and `output_seconds` after they are done."""

    film: float
    clip: float
    way_seconds: float
    output_seconds: float

    @property
    def mean(self) -> float:
        return CLIPS_SHARE * self.clip + (1 - CLIPS_SHARE) * self.film


@dataclass(frozen=True)
class Played:
    """A trace as one order has served it. `began` is its first moment, on the clock of its takes."""

    order: Order
    load: float
    seed: int
    alone: Alone
    arrivals: Sequence[Arrival]
    takes: Sequence[Take]
    began: float

    def figures(self) -> dict[str, float]:
        """What is told of it."""
        found = figures_of([take.seconds for take in self.takes], self.arrivals, self.alone)
        return found | {"pauses": float(sum(take.report().pauses for take in self.takes))}


def figures_of(seconds: Sequence[float], arrivals: Sequence[Arrival], alone: Alone) -> dict[str, float]:
    """Of jobs that took so long from being asked for to being there; slowdown is that over the same alone."""
    films = [each for each, arrival in zip(seconds, arrivals, strict=True) if arrival.is_film]
    clips = [each for each, arrival in zip(seconds, arrivals, strict=True) if not arrival.is_film]
    slowdowns = [each / alone.film for each in films] + [each / alone.clip for each in clips]
    return {
        "mean, s": statistics.mean(seconds),
        "p95, s": percentile(seconds, 0.95),
        "films' mean, s": statistics.mean(films),
        "mean slowdown": statistics.mean(slowdowns),
        "clips' slowdown": statistics.mean(clips) / alone.clip,
        f"within {WITHIN:g}x": statistics.mean(each <= WITHIN for each in slowdowns),
    }


def arrivals_of(load: float, num_jobs: int, seed: int, alone: Alone) -> list[Arrival]:
    """Jobs at random moments (Poisson), scaled so that they offer exactly this load, and of a mix that is exact too."""
    chance = random.Random(seed)
    num_films = round((1 - CLIPS_SHARE) * num_jobs)
    kinds = [number < num_films for number in range(num_jobs)]
    chance.shuffle(kinds)
    gaps = [chance.expovariate(1.0) for _ in range(num_jobs)]
    scale = num_jobs * alone.mean / load / sum(gaps)
    moments, now = [], 0.0
    for gap in gaps:
        now += gap * scale
        moments.append(now)
    return [Arrival(at, is_film) for at, is_film in zip(moments, kinds, strict=True)]


def alone_on(site: Site, order: Order, sizes: Sizes) -> Alone:
    """Medians of jobs that have the ranks to themselves; the first of each kind is not counted."""

    def made(fields: Fields) -> list[Take]:
        takes = []
        for seed in range(sizes.alone + 1):
            takes.append(site.submit(order, fields, seed=seed))
            takes[-1].report()
        return takes[1:]

    films, clips = made(sizes.trace_film), made(sizes.trace_clip)
    return Alone(
        film=statistics.median(take.seconds for take in films),
        clip=statistics.median(take.seconds for take in clips),
        way_seconds=statistics.median(take.begun - take.submitted for take in films + clips),
        output_seconds=statistics.median(take.over - take.computed for take in films + clips),
    )


def play(
    site: Site, order: Order, load: float, seed: int, alone: Alone, arrivals: list[Arrival], sizes: Sizes
) -> Played:
    """Let them come, and wait until all are there."""
    site.engine(order)
    began, takes = time.perf_counter(), []
    for number, each in enumerate(arrivals):
        time.sleep(max(0.0, began + each.at - time.perf_counter()))
        takes.append(site.submit(order, sizes.trace_film if each.is_film else sizes.trace_clip, seed=number))
    for take in takes:
        take.report()
    return Played(order, load, seed, alone, arrivals, takes, began)


def play_all(site: Site, sizes: Sizes) -> list[Played]:
    """Each seed at each load under all orders, one after another; seconds alone are taken anew for each seed."""
    played = []
    for seed in sizes.seeds:
        alone = alone_on(site, PAUSING, sizes)
        for load, num_jobs in sizes.num_jobs:
            arrivals = arrivals_of(load, num_jobs, seed, alone)
            played += [play(site, order, load, seed, alone, arrivals, sizes) for order in sizes.orders]
    return played


def judged(played: Sequence[Played], sizes: Sizes) -> Part:
    """Ratios of one seed's runs to each other, of which the median counts; figures are medians of the seeds."""

    def ratio(figure: str, to: Order) -> float:
        runs = [run for run in played if run.load == JUDGED_LOAD]
        found = {(run.order.name, run.seed): run.figures()[figure] for run in runs}
        return statistics.median(found[PAUSING.name, seed] / found[to.name, seed] for seed in sizes.seeds)

    bars = [
        Bar(name=f"{figure} at load {JUDGED_LOAD}, of {to.name}", at_most=at_most, measured=ratio(figure, to))
        for figure, at_most, to in PROMISES
        if to in sizes.orders
    ]
    is_apart = ARRIVAL_APART in sizes.orders
    apart = {f"mean slowdown of {ARRIVAL_APART.name}": ratio("mean slowdown", ARRIVAL_APART)} if is_apart else {}
    return Part(
        bars=bars,
        rows=[row(load, order, played) for load, _ in sizes.num_jobs for order in sizes.orders],
        notes={
            "film": sizes.trace_film,
            "clip": sizes.trace_clip,
            "files": "latents",
            "jobs by load": dict(sizes.num_jobs),
            "seeds": list(sizes.seeds),
            "alone, s": [asdict(alone) for alone in {run.seed: run.alone for run in played}.values()],
        }
        | apart,
    )


def row(load: float, order: Order, played: Sequence[Played]) -> dict[str, Any]:
    """Medians over the seeds."""
    found = [run.figures() for run in played if run.load == load and run.order is order]
    return {"load": load, "order": order.name} | medians(found)


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {name: statistics.median(each[name] for each in found) for name in found[0]}
