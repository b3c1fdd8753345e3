"""How many replicas a line asks for, and what they cost beside a fixed number."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlight.core.replicas import ReplicaRange
from ringlight.planner.elastic import Elastic
from ringlight.planner.queueing import play
from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.sizing import START_SECONDS, FleetSize, longest_wait, needed
from ringlight.planner.task import Service, Task


@pytest.mark.parametrize(
    ("rests", "patience", "found"),
    [
        ([], 60.0, 0),
        ([600.0], 60.0, 1),  # nobody waits for it
        ([10.0, 100.0], 60.0, 1),  # the second one waits 10 s
        ([600.0, 600.0], 60.0, 2),
        ([5.0, 500.0, 500.0], 60.0, 2),  # a short one that comes goes before others, which wait no longer than it takes
        ([100.0] * 6, 250.0, 2),
        ([100.0] * 6, 0.0, 4),  # whoever asks for more has them up to the most
        ([math.inf, math.inf], 60.0, 2),  # nobody knows: it may be long
    ],
)
def test_as_many_are_needed_that_nobody_waits_too_long(rests: list[float], patience: float, found: int) -> None:
    assert needed(rests, 4, patience) == found


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 500.0), max_size=12), st.floats(0.0, 300.0), st.integers(1, 6))
def test_one_less_would_be_too_few(rests: list[float], patience: float, most: int) -> None:
    found = needed(rests, most, patience)
    assert found <= min(most, len(rests))
    assert found == most or longest_wait(rests, found) <= patience
    assert not found or longest_wait(rests, found - 1) > patience


def test_more_come_at_once_and_go_when_they_were_not_needed_for_long() -> None:
    size = FleetSize(ReplicaRange(1, 4, scale_up_wait=30.0, scale_down_idle=100.0))
    assert size.look(0.0, [], None) == 1
    assert size.look(1.0, [50.0] * 3, None) == 3
    assert size.look(2.0, [50.0], None) == 3
    assert size.look(60.0, [50.0] * 2, None) == 3
    assert size.look(101.0, [], None) == 2  # the third was needed at 1 s, the second at 60 s
    assert size.look(159.0, [], None) == 2
    assert size.look(160.0, [], None) == 1


def test_none_is_kept_where_the_least_is_none_and_nothing_is_left_to_do() -> None:
    size = FleetSize(ReplicaRange(0, 2, scale_down_idle=0.0))
    assert [size.look(now, rests, 5.0) for now, rests in ((0.0, [9.0]), (1.0, [9.0, 9.0]), (2.0, []))] == [1, 2, 0]


@pytest.mark.parametrize(("start_seconds", "wanted"), [(None, 1), (20.0, 2)])
def test_a_job_may_wait_as_long_as_a_replica_takes_to_start(start_seconds: float | None, wanted: int) -> None:
    rests = [START_SECONDS - 1, 500.0]
    assert FleetSize(ReplicaRange(1, 2)).look(0.0, rests, start_seconds) == wanted


def line(*arrivals: float, seconds: float = 100.0) -> list[Task]:
    """Requests of so many seconds each."""
    return [
        Task(
            job=Candidate(key=str(number), arrival=number, rest_seconds=seconds, whole_seconds=seconds),
            service=Service(num_steps=100, step_seconds=seconds / 100),
            arrives=arrival,
        )
        for number, arrival in enumerate(arrivals)
    ]


def played(tasks: list[Task], asked: ReplicaRange, start_seconds: float = 20.0) -> Elastic:
    fleet = Elastic(asked, start_seconds)
    play(tasks, [], Policy(), fleet=fleet)
    return fleet


def test_a_line_of_sleepers_wakes_works_and_sleeps_again() -> None:
    tasks = line(0.0, 300.0)
    fleet = played(tasks, ReplicaRange(0, 2, scale_down_idle=50.0))
    assert [(task.begin, task.end) for task in tasks] == [(20.0, 120.0), (320.0, 420.0)]
    assert fleet.counts == [(0.0, 0), (0.0, 1), (169.0, 0), (300.0, 1)]  # needed at 119 s at last
    assert fleet.replica_seconds == pytest.approx(169.0 + 120.0)


def test_one_that_is_there_always_is_as_a_fixed_one() -> None:
    fixed, elastic = line(0.0, 10.0, 20.0), line(0.0, 10.0, 20.0)
    fleet = played(elastic, ReplicaRange(1, 1))
    played_fixed = played(fixed, ReplicaRange(1, 4, scale_up_wait=1e6))
    assert [task.end for task in elastic] == [task.end for task in fixed] == [100.0, 200.0, 300.0]
    assert fleet.replica_seconds == played_fixed.replica_seconds == 300.0


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 400.0), min_size=1, max_size=12), st.integers(0, 2), st.floats(0.0, 200.0))
def test_all_are_served_whatever_comes_and_goes(gaps: list[float], least: int, idle: float) -> None:
    tasks = line(*[sum(gaps[: number + 1]) for number in range(len(gaps))])
    fleet = played(tasks, ReplicaRange(least, 3, scale_down_idle=idle))
    assert all(task.end < math.inf for task in tasks)
    busy = sum(task.service.busy_seconds for task in tasks)
    assert busy <= fleet.replica_seconds <= 3 * max(task.end for task in tasks) + 1e-6
    assert all(0 <= count <= 3 for _, count in fleet.counts)
    assert all(before <= after for (before, _), (after, _) in pairwise(fleet.counts))
