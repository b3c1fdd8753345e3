"""The queue against theory, and the fleets chosen by it."""

from __future__ import annotations

import math
import random

import pytest

from ringlight.planner.fleet import Kind, plan_fleet
from ringlight.planner.machine import Machine
from ringlight.planner.simulate import Load, QueueResult, mixed, percentile, simulate
from tests.planner.specs import machine, work


def h100s(number: int) -> Machine:
    return machine("h100-sxm", "nvlink4", most_ranks=number)


def fixed(seconds: float, rate: float, servers: int, count: int = 60_000, seed: int = 1) -> QueueResult:
    return simulate(Load(rate=rate, num_requests=count, seed=seed), servers, lambda _: seconds)


def erlang_wait(rate: float, seconds: float, servers: int) -> float:
    """Mean wait in M/M/c (Erlang C)."""
    offered = rate * seconds
    busy = offered**servers / math.factorial(servers) * servers / (servers - offered)
    waits = busy / (sum(offered**k / math.factorial(k) for k in range(servers)) + busy)
    return waits * seconds / (servers - offered)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_replica_waits_as_in_m_d_1(utilisation: float) -> None:
    """Mean wait rho / (2 mu (1 - rho)), exactly (Pollaczek-Khinchine)."""
    found = fixed(10.0, utilisation / 10.0, 1)
    assert found.mean_wait_seconds == pytest.approx(10.0 * utilisation / (2 * (1 - utilisation)), rel=0.08)
    assert found.utilisation == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize(("servers", "utilisation"), [(2, 0.7), (4, 0.8), (16, 0.9)])
def test_many_replicas_wait_as_in_m_d_c(servers: int, utilisation: float) -> None:
    """Cosmetatos: half of M/M/c's wait, times 1 + (1 - rho)(c - 1)(sqrt(4 + 5c) - 2) / (16 rho c); good to 2 %."""
    rate = utilisation * servers / 10.0
    more = (1 - utilisation) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * utilisation * servers)
    expected = erlang_wait(rate, 10.0, servers) / 2 * (1 + more)
    found = [fixed(10.0, rate, servers, seed=seed).mean_wait_seconds for seed in (1, 2)]
    assert sum(found) / 2 == pytest.approx(expected, rel=0.1)


def test_exponential_times_wait_as_in_m_m_c() -> None:
    waits = [
        simulate(Load(rate=0.24, num_requests=60_000, seed=seed), 3, lambda random_: random_.expovariate(0.1))
        for seed in range(4)
    ]
    mean = sum(found.mean_wait_seconds for found in waits) / 4
    assert mean == pytest.approx(erlang_wait(0.24, 10.0, 3), rel=0.08)


def test_a_queue_that_falls_behind_says_so() -> None:
    found = fixed(10.0, 0.3, 2, count=2000)
    assert not found.keeps_up
    assert found.utilisation == 1.0
    assert found.offered == pytest.approx(1.5, rel=0.1)


def test_an_idle_queue_is_the_service_alone() -> None:
    found = fixed(10.0, 1e-6, 3, count=1000)
    assert (found.p50_seconds, found.p99_seconds, found.mean_wait_seconds) == (10.0, 10.0, 0.0)


def test_the_same_seed_is_the_same_queue() -> None:
    assert fixed(1.0, 0.8, 1, 1000, seed=5) == fixed(1.0, 0.8, 1, 1000, seed=5)
    assert fixed(1.0, 0.8, 1, 1000, seed=5) != fixed(1.0, 0.8, 1, 1000, seed=6)


def test_percentiles_and_mixes() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    draw, random_ = mixed([3, 1], [1.0, 2.0]), random.Random(0)
    drawn = [draw(random_) for _ in range(4000)]
    assert drawn.count(2.0) == pytest.approx(1000, rel=0.1)


def test_under_little_load_many_ranks_win_and_under_much_few() -> None:
    kinds = [Kind(work(num_frames=25))]
    idle = plan_fleet(kinds, h100s(64), Load(rate=0.01, num_requests=2000))
    busy = plan_fleet(kinds, h100s(64), Load(rate=3.5, num_requests=2000))
    assert idle.chosen is not None and busy.chosen is not None
    assert idle.chosen.queue.num_replicas < busy.chosen.queue.num_replicas
    assert all(choice.num_gpus <= 64 for choice in idle.choices)


@pytest.mark.slow
def test_a_promise_is_kept_by_as_few_gpus_as_can() -> None:
    kinds, load = [Kind(work(num_frames=25))], Load(rate=0.5, num_requests=4000)
    found = plan_fleet(kinds, h100s(1000), load, p95_seconds=20.0, gpu_price=2.0)
    assert found.chosen is not None
    assert found.chosen.queue.p95_seconds <= 20.0
    assert found.chosen.cost_per_hour == pytest.approx(2.0 * found.chosen.num_gpus)
    assert found.chosen.cost_per_video == pytest.approx(2.0 * found.chosen.num_gpus / 3600 / 0.5)
    kept = [choice for choice in found.choices if choice.queue.keeps_up and choice.queue.p95_seconds <= 20.0]
    assert found.chosen.num_gpus == min(choice.num_gpus for choice in kept)
    one_less = simulate(load, found.chosen.queue.num_replicas - 1, lambda _: found.chosen.queue.p50_seconds)  # type: ignore[union-attr]
    assert not one_less.keeps_up or one_less.p95_seconds > 15.0


def test_a_load_that_nothing_keeps_up_with_has_no_fleet() -> None:
    kinds = [Kind(work()), Kind(work(num_frames=25), weight=2.0)]
    found = plan_fleet(kinds, h100s(8), Load(rate=10.0, num_requests=1000))
    assert found.chosen is None
    assert found.choices
