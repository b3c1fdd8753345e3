"""A queue before equal replicas, on a clock of its own: discrete events, first come first served."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import msgspec

WARM_UP_SHARE = 0.1  # of the requests, left out: they find the line shorter than it will be


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in: requests a second on average, at random moments (Poisson), until there were so many."""

    rate: float
    num_requests: int = 20_000
    seed: int = 0


class QueueResult(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from asking to having, by percentile, and the mean wait before a replica is free.

    `offered` is work that comes in, in terms of what the replicas can do. From 1 on they fall behind, and percentiles
    only grow with time.
    """

    num_replicas: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    mean_wait_seconds: float
    offered: float

    @property
    def keeps_up(self) -> bool:
        return self.offered < 1.0

    @property
    def utilisation(self) -> float:
        """The share of time that a replica is busy, in the long run."""
        return min(1.0, self.offered)


def simulate(load: Load, num_replicas: int, service: Callable[[random.Random], float]) -> QueueResult:
    """Requests wait in one line for the first free of `num_replicas`. `service` draws the seconds of each of them."""
    random_ = random.Random(load.seed)
    free = [0.0] * num_replicas
    now, busy, waits, latencies = 0.0, 0.0, [], []
    for _ in range(load.num_requests):
        now += random_.expovariate(load.rate)
        start = max(now, heapq.heappop(free))
        seconds = service(random_)
        heapq.heappush(free, start + seconds)
        busy += seconds
        waits.append(start - now)
        latencies.append(start - now + seconds)
    kept = latencies[int(WARM_UP_SHARE * len(latencies)) :]
    kept_waits = waits[int(WARM_UP_SHARE * len(waits)) :]
    offered = busy / load.num_requests * load.rate / num_replicas
    return QueueResult(
        num_replicas=num_replicas,
        p50_seconds=percentile(kept, 0.50),
        p95_seconds=percentile(kept, 0.95),
        p99_seconds=percentile(kept, 0.99),
        mean_wait_seconds=sum(kept_waits) / len(kept_waits),
        offered=offered,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def mixed(weights: Sequence[float], seconds: Sequence[float]) -> Callable[[random.Random], float]:
    """Service times of a mix of requests: each kind takes its own seconds and comes as often as its weight says."""

    def draw(random_: random.Random) -> float:
        return random_.choices(seconds, weights)[0]

    return draw
