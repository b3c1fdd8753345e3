"""The queue against theory, and the fleets chosen by it."""

from __future__ import annotations

import math
import random

import pytest
from msgspec.structs import replace

from ringlight.core.replicas import ReplicaRange
from ringlight.planner.fleet import Kind, plan_fleet
from ringlight.planner.machine import Machine
from ringlight.planner.scheduling import Policy
from ringlight.planner.simulate import ORDERS, Demand, Load, Order, QueueResult, mixed, percentile, play_trace, simulate
from ringlight.planner.task import Service
from tests.planner.specs import machine, work


def h100s(number: int) -> Machine:
    return machine("h100-sxm", "nvlink4", most_ranks=number)


def fixed(seconds: float, rate: float, servers: int, count: int = 20_000, seed: int = 1) -> QueueResult:
    demand = Demand.plain(seconds)
    return simulate(Load(rate=rate, num_requests=count, seed=seed), servers, lambda _: demand, ORDERS["arrival"])


def erlang_wait(rate: float, seconds: float, servers: int) -> float:
    """Mean wait in M/M/c (Erlang C)."""
    offered = rate * seconds
    busy = offered**servers / math.factorial(servers) * servers / (servers - offered)
    waits = busy / (sum(offered**k / math.factorial(k) for k in range(servers)) + busy)
    return waits * seconds / (servers - offered)


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_one_replica_waits_as_in_m_d_1(utilisation: float) -> None:
    """Mean wait rho / (2 mu (1 - rho)), exactly (Pollaczek-Khinchine)."""
    found = fixed(10.0, utilisation / 10.0, 1)
    assert found.mean_wait_seconds == pytest.approx(10.0 * utilisation / (2 * (1 - utilisation)), rel=0.08)
    assert found.utilisation == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize(("servers", "utilisation"), [(2, 0.7), (16, 0.9)])
def test_many_replicas_wait_as_in_m_d_c(servers: int, utilisation: float) -> None:
    """Cosmetatos: half of M/M/c's wait, times 1 + (1 - rho)(c - 1)(sqrt(4 + 5c) - 2) / (16 rho c); good to 2 %."""
    rate = utilisation * servers / 10.0
    more = (1 - utilisation) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * utilisation * servers)
    expected = erlang_wait(rate, 10.0, servers) / 2 * (1 + more)
    assert fixed(10.0, rate, servers).mean_wait_seconds == pytest.approx(expected, rel=0.12)


def test_exponential_times_wait_as_in_m_m_c() -> None:
    def draw(random_: random.Random) -> Demand:
        return Demand.plain(random_.expovariate(0.1))

    found = simulate(Load(rate=0.24, num_requests=20_000, seed=1), 3, draw, ORDERS["arrival"])
    assert found.mean_wait_seconds == pytest.approx(erlang_wait(0.24, 10.0, 3), rel=0.12)


def test_shortest_remaining_first_is_as_in_m_g_1() -> None:
    """Schrage and Miller, doi 10.1287/opre.14.4.670, of two lengths, where all but the last step can be left."""
    short, long, share, rate = 1.0, 10.0, 0.8, 0.25
    busy = rate * share * short  # of the short ones alone
    square = share * short**2 + (1 - share) * long**2
    total = rate * (share * short + (1 - share) * long)
    expected_short = short + rate * short**2 / (2 * (1 - busy))
    expected_long = rate * square / (2 * (1 - total) * (1 - busy)) + (long - short) / (1 - busy) + short
    demands = [
        Demand(service=Service(num_steps=500, step_seconds=seconds / 500), best_seconds=seconds)
        for seconds in (short, long)
    ]
    load = Load(rate=rate, num_requests=15_000, seed=2)
    found = simulate(load, 1, mixed([share, 1 - share], demands), Policy(makes_way_below=1.0), pause_seconds=0.0)
    assert found.mean_seconds == pytest.approx(share * expected_short + (1 - share) * expected_long, rel=0.06)
    slowdown = share * expected_short / short + (1 - share) * expected_long / long
    assert found.mean_slowdown == pytest.approx(slowdown, rel=0.03)


FILM = Service(before_seconds=0.063, num_steps=50, step_seconds=0.2488, after_seconds=1.278, output_seconds=0.48)
CLIP = Service(before_seconds=0.018, num_steps=12, step_seconds=0.02657, after_seconds=0.151, output_seconds=0.213)
ONE_RANK_SECONDS = 0.7 * 2.97 + 0.3 * 108.5  # of the mean request, in which the load is told


@pytest.mark.parametrize(
    ("load", "order", "mean", "slowdown", "within"),
    [
        (0.4, "arrival", 8.8, 5.2, 0.75),
        (0.4, "shortest", 6.1, 1.17, 1.0),
        (0.8, "shortest without pauses", 17.0, 7.1, 0.39),
        (0.8, "shortest", 13.5, 1.77, 0.89),
    ],
)
def test_clips_and_films_on_eight_ranks(load: float, order: Order, mean: float, slowdown: float, within: float) -> None:
    """Seven clips to three films on one replica of 8 H100, as predicted; expected is what a simulation written before
    this one found over three traces of 10,000."""
    demands = [Demand(service=each, best_seconds=each.alone_seconds) for each in (CLIP, FILM)]
    asked = Load(rate=load * 8 / ONE_RANK_SECONDS, num_requests=5000, seed=0)
    found = simulate(asked, 1, mixed([7, 3], demands), ORDERS[order])
    assert found.mean_seconds == pytest.approx(mean, rel=0.15)
    assert found.mean_slowdown == pytest.approx(slowdown, rel=0.15)
    assert found.within_share == pytest.approx(within, abs=0.04)
    assert (found.pauses_per_request > 0) == (order == "shortest")


def test_a_trace_is_played_as_it_was() -> None:
    demands = [Demand(service=each, best_seconds=each.alone_seconds) for each in (FILM, CLIP, CLIP)]
    served = play_trace([0.0, 1.0, 3.1], demands, ORDERS["shortest"], 1, pause_seconds=0.5)
    boundary = FILM.before_seconds + 4 * FILM.step_seconds
    assert served[1].begin == pytest.approx(boundary + 0.5)
    assert [each.pauses for each in served] == [2, 0, 0]
    assert served[0].seconds == pytest.approx(FILM.alone_seconds + 2 * (CLIP.busy_seconds + 0.5))
    assert served[0].slowdown == pytest.approx(served[0].seconds / FILM.alone_seconds)


def test_deadlines_and_clients_of_a_mix_count() -> None:
    """With a deadline of three times alone more are within it than without; a client that asks for too much waits."""
    demands = [Demand(service=each, best_seconds=each.alone_seconds) for each in (CLIP, FILM)]
    dated = [replace(each, due_seconds=3 * each.best_seconds) for each in demands]
    load = Load(rate=0.85 * 8 / ONE_RANK_SECONDS, num_requests=300, seed=3)
    without, kept = (simulate(load, 1, mixed([7, 3], each)) for each in (demands, dated))
    assert without.in_time_share is None and kept.in_time_share is not None
    assert kept.in_time_share == pytest.approx(kept.within_share)
    assert kept.within_share > without.within_share + 0.03
    clips = [float(second) for second in range(500)]
    crowd = Demand(service=replace(CLIP, before_seconds=0.7), best_seconds=1.2, client="crowd")
    film = Demand(service=FILM, best_seconds=14.3, client="film")
    arrivals, asked = [*clips, 480.0], [*[crowd] * len(clips), film]
    alone = [replace(each, client="") for each in asked]
    late, soon = (play_trace(arrivals, each, ORDERS["shortest"], 1)[-1].seconds for each in (alone, asked))
    assert soon == pytest.approx(FILM.alone_seconds, abs=2.0) and late > 3 * soon


def test_a_queue_that_falls_behind_says_so() -> None:
    found = fixed(10.0, 0.3, 2, count=2000)
    assert not found.keeps_up
    assert found.utilisation == 1.0
    assert found.mean_seconds == found.p50_seconds == math.inf
    assert found.offered == pytest.approx(1.5, rel=0.1)


def test_an_idle_queue_is_the_service_alone() -> None:
    found = fixed(10.0, 1e-6, 3, count=1000)
    assert (found.p50_seconds, found.p99_seconds, found.mean_wait_seconds) == (10.0, 10.0, 0.0)


def test_an_output_is_written_while_the_next_is_made() -> None:
    demand = Demand(service=Service(after_seconds=1.0, output_seconds=9.0), best_seconds=10.0)
    found = simulate(Load(rate=0.5, num_requests=1000), 1, lambda _: demand)
    assert found.offered == pytest.approx(0.5, rel=0.1)
    assert found.p50_seconds == pytest.approx(10.3, abs=0.4)


def test_the_same_seed_is_the_same_queue() -> None:
    assert fixed(1.0, 0.8, 1, 1000, seed=5) == fixed(1.0, 0.8, 1, 1000, seed=5)
    assert fixed(1.0, 0.8, 1, 1000, seed=5) != fixed(1.0, 0.8, 1, 1000, seed=6)


def test_percentiles_and_mixes() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    one, other = Demand.plain(1.0), Demand.plain(2.0)
    draw, random_ = mixed([3, 1], [one, other]), random.Random(0)
    drawn = [draw(random_) for _ in range(4000)]
    assert drawn.count(other) == pytest.approx(1000, rel=0.1)


def test_under_little_load_many_ranks_win_and_under_much_few() -> None:
    kinds = [Kind(work(num_frames=25))]
    idle = plan_fleet(kinds, h100s(64), Load(rate=0.01, num_requests=500))
    busy = plan_fleet(kinds, h100s(64), Load(rate=3.5, num_requests=1000))
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
    demand = Demand.plain(found.chosen.queue.p50_seconds)
    one_less = simulate(load, found.chosen.queue.num_replicas - 1, lambda _: demand)
    assert not one_less.keeps_up or one_less.p95_seconds > 15.0


def test_replicas_that_come_and_go_stand_beside_fixed_numbers() -> None:
    kinds, load = [Kind(work(num_frames=25))], Load(rate=0.002, num_requests=300)
    asked = ReplicaRange(0, 2, scale_down_idle=60.0)
    found = plan_fleet(kinds, h100s(3), load, gpu_price=2.0, num_replicas=asked, start_seconds=30.0)
    choices = {choice.name: choice for choice in found.choices}
    assert choices.keys() >= {"1 x u1r1", "2 x u1r1", "0..2 x u1r1", "1 x u2r1"} or "1 x c2u1r1" in choices
    assert not any(name.startswith("0..2 x ") and choices[name].num_gpus > 3 for name in choices)
    elastic, fixed = choices["0..2 x u1r1"], choices["1 x u1r1"]
    assert elastic.mean_gpus < 0.5 < fixed.mean_gpus == fixed.num_gpus == 1
    assert elastic.cost_per_hour == pytest.approx(2.0 * elastic.mean_gpus)
    assert fixed.queue.mean_wait_seconds < 30.0 <= elastic.queue.p95_wait_seconds


def test_a_load_that_nothing_keeps_up_with_has_no_fleet() -> None:
    kinds = [Kind(work()), Kind(work(num_frames=25), weight=2.0)]
    found = plan_fleet(kinds, h100s(8), Load(rate=10.0, num_requests=1000))
    assert found.chosen is None
    assert found.choices
