"""A line before equal replicas on a clock of its own: requests at random moments, or a trace, played by a policy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from ringlight.core.replicas import ReplicaRange
from ringlight.planner.elastic import Elastic
from ringlight.planner.queueing import play
from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.shares import Shares
from ringlight.planner.sizing import LOOK_SECONDS, START_SECONDS
from ringlight.planner.task import Service, Station, Task

WARM_UP_SHARE = 0.1  # of the requests, left out: they find the line shorter than it will be
COOL_DOWN_SHARE = 0.05  # the same at the end: nobody comes after them
PAUSE_SECONDS = 0.01  # that a replica loses when it leaves a job for another
LOOKS_WHILE_IDLE = 60  # as a replica waits for its end: fewer looks than a server's, whose ends come 1/60 later at most
WITHIN = 3.0  # times its seconds alone: who has waited so little is content

Order = Literal["arrival", "shortest without pauses", "shortest"]
ORDERS: dict[Order, Policy] = {  # in which replicas may take requests
    "arrival": Policy(scheduling="arrival"),
    "shortest without pauses": Policy(pauses=False),
    "shortest": Policy(),
}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that arrive: a rate per second on average, at random moments (Poisson), and their number."""

    rate: float
    num_requests: int = 20_000
    seed: int = 0


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Demand of a request: seconds of a replica, and what its place in the queue depends on.

    Its slowdown is against `best_seconds`: alone, on the layout that is fastest for it. A late request is still played
    to its end.
    """

    service: Service
    best_seconds: float
    client: str = ""
    priority: int = 0
    due_seconds: float | None = None

    @classmethod
    def plain(cls, seconds: float) -> Demand:
        """Demand of so many seconds that nothing interrupts."""
        return cls(service=Service(after_seconds=seconds), best_seconds=seconds)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a request. `begin` and `end` are seconds of the clock, as `arrival` is."""

    demand: Demand
    arrival: float
    begin: float
    end: float
    pauses: int

    @property
    def seconds(self) -> float:
        """Seconds from its arrival to its end."""
        return self.end - self.arrival

    @property
    def slowdown(self) -> float:
        """Ratio of its seconds to its seconds alone."""
        return self.seconds / self.demand.best_seconds

    @property
    def paused_seconds(self) -> float:
        """Seconds since its first turn in which others had the turn."""
        return self.end - self.begin - self.demand.service.alone_seconds if self.pauses else 0.0


class QueueResult(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a queue in seconds: from arrival to end, and means of waits.

    The waits are those before a replica takes a request at first, and the pauses after that.

    Slowdown: times what a request takes alone on the layout that is fastest for it, wherever it is made here;
    `within_share` has WITHIN times or less. `in_time_share` is of requests with a deadline, None without any. `offered`
    is work that comes in, in terms of what the replicas can do. From 1 on they fall behind: all seconds grow with time,
    without end (infinite here). `num_replicas` is how many there are at most, `mean_replicas` how many there were on
    average, those that start included, where they come and go: between `least_replicas` and the most.
    """

    num_replicas: int
    least_replicas: int
    mean_replicas: float
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    mean_wait_seconds: float
    p95_wait_seconds: float
    mean_paused_seconds: float
    mean_slowdown: float
    within_share: float
    pauses_per_request: float
    in_time_share: float | None
    offered: float

    @property
    def keeps_up(self) -> bool:
        return self.offered < 1.0

    @property
    def needed_replicas(self) -> int:
        """Smallest number of replicas that can do more than what comes in."""
        return math.floor(self.offered * self.num_replicas) + 1

    @property
    def utilisation(self) -> float:
        """Share of time that a replica is busy, in the long run."""
        return min(1.0, self.offered)


def simulate(
    load: Load,
    num_replicas: int | ReplicaRange,
    draw: Callable[[random.Random], Demand],
    policy: Policy = ORDERS["shortest"],
    pause_seconds: float = PAUSE_SECONDS,
    start_seconds: float = START_SECONDS,
) -> QueueResult:
    """Simulate requests that wait in one queue for `num_replicas`.

    Replicas take `start_seconds` to start if their number changes. `draw` says what each request asks for.
    """
    asked = ReplicaRange(num_replicas, num_replicas) if isinstance(num_replicas, int) else num_replicas
    random_ = random.Random(load.seed)
    now, arrivals, demands = 0.0, [], []
    for _ in range(load.num_requests):
        now += random_.expovariate(load.rate)
        arrivals.append(now)
        demands.append(draw(random_))
    busy = sum(demand.service.busy_seconds for demand in demands)
    offered = busy / load.num_requests * load.rate / asked.most
    if offered >= 1:
        return _falls_behind(asked, offered)
    if asked.is_fixed:
        served, mean_replicas = play_trace(arrivals, demands, policy, asked.most, pause_seconds), float(asked.most)
    else:
        fleet = Elastic(asked, start_seconds, max(LOOK_SECONDS, asked.scale_down_idle / LOOKS_WHILE_IDLE))
        served = play_trace(arrivals, demands, policy, asked.most, pause_seconds, fleet)
        mean_replicas = fleet.replica_seconds / max(each.end for each in served)
    kept = served[int(WARM_UP_SHARE * len(served)) : math.ceil((1 - COOL_DOWN_SHARE) * len(served))]
    return result_of(kept, asked, mean_replicas, offered)


def play_trace(
    arrivals: Sequence[float],
    demands: Sequence[Demand],
    policy: Policy,
    num_replicas: int,
    pause_seconds: float = PAUSE_SECONDS,
    fleet: Elastic | None = None,
) -> list[Served]:
    """Play requests that come at these seconds from 0 on; returns the outcome of each, in the same order.

    For a trace that was measured: `service` of each demand from its report (text before the steps, seconds a step,
    decoding after), `best_seconds` what it took alone. Shares count where there are several clients. A `fleet` says how
    many replicas there are when.
    """
    tasks = [
        Task(
            job=Candidate(
                key=str(number),
                arrival=number,
                priority=demand.priority,
                client=demand.client,
                rest_seconds=demand.service.busy_seconds,
                whole_seconds=demand.service.alone_seconds,
                due_seconds=demand.due_seconds,
            ),
            service=demand.service,
            arrives=arrival,
        )
        for number, (arrival, demand) in enumerate(zip(arrivals, demands, strict=True))
    ]
    clients = {demand.client for demand in demands}
    play(
        tasks,
        [] if fleet is not None else [Station() for _ in range(num_replicas)],
        msgspec.structs.replace(policy, num_replicas=num_replicas),
        pause_seconds=pause_seconds,
        shares=Shares(num_replicas) if len(clients) > 1 else None,
        fleet=fleet,
    )
    return [
        Served(demand=demand, arrival=task.arrives, begin=task.begin, end=task.end, pauses=task.pauses)
        for task, demand in zip(tasks, demands, strict=True)
    ]


def result_of(served: Sequence[Served], asked: ReplicaRange, mean_replicas: float, offered: float) -> QueueResult:
    """Summarise the outcomes of requests."""
    seconds, slowdowns = [each.seconds for each in served], [each.slowdown for each in served]
    waits = [each.begin - each.arrival for each in served]
    dues = [(each.seconds, each.demand.due_seconds) for each in served]
    in_time = [taken <= due for taken, due in dues if due is not None]
    return QueueResult(
        num_replicas=asked.most,
        least_replicas=asked.least,
        mean_replicas=mean_replicas,
        mean_seconds=_mean(seconds),
        p50_seconds=percentile(seconds, 0.50),
        p95_seconds=percentile(seconds, 0.95),
        p99_seconds=percentile(seconds, 0.99),
        mean_wait_seconds=_mean(waits),
        p95_wait_seconds=percentile(waits, 0.95),
        mean_paused_seconds=_mean([each.paused_seconds for each in served]),
        mean_slowdown=_mean(slowdowns),
        within_share=_mean([slowdown <= WITHIN for slowdown in slowdowns]),
        pauses_per_request=_mean([each.pauses for each in served]),
        in_time_share=_mean(in_time) if in_time else None,
        offered=offered,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def mixed(weights: Sequence[float], demands: Sequence[Demand]) -> Callable[[random.Random], Demand]:
    """Make a function that draws from a mix of requests: each kind comes as often as its weight says."""

    def draw(random_: random.Random) -> Demand:
        return random_.choices(demands, weights)[0]

    return draw


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _falls_behind(asked: ReplicaRange, offered: float) -> QueueResult:
    return QueueResult(
        num_replicas=asked.most,
        least_replicas=asked.least,
        mean_replicas=float(asked.most),
        mean_seconds=math.inf,
        p50_seconds=math.inf,
        p95_seconds=math.inf,
        p99_seconds=math.inf,
        mean_wait_seconds=math.inf,
        p95_wait_seconds=math.inf,
        mean_paused_seconds=math.inf,
        mean_slowdown=math.inf,
        within_share=0.0,
        pauses_per_request=0.0,
        in_time_share=None,
        offered=offered,
    )
