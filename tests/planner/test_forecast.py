"""When those in the line have their turn and are over, if nobody else comes."""

from __future__ import annotations

from ringlight.planner.forecast import Forecast, ReplicaJobs, forecast
from ringlight.planner.scheduling import Policy
from tests.planner.test_scheduling import job

SHORTEST, ARRIVAL = Policy(), Policy(scheduling="arrival")


def told(found: dict[str, Forecast]) -> dict[str, tuple[int, float | None, float | None]]:
    return {key: (each.position, each.begin_seconds, each.end_seconds) for key, each in found.items()}


def test_one_replica_takes_the_shortest_rest_next_whether_it_holds_it_or_not() -> None:
    held, running = job("held", 7), job("running", 3)
    found = forecast(SHORTEST, [ReplicaJobs(running=running, held=[held])], [job("a", 9), job("b", 4)])
    assert told(found) == {"running": (0, 0, 3), "b": (1, 3, 7), "held": (2, 7, 14), "a": (3, 14, 23)}


def test_who_makes_way_ends_after_the_one_for_whom_it_does() -> None:
    running, shorter = job("running", 10), job("b", 2)
    replica = ReplicaJobs(running=running)
    assert told(forecast(SHORTEST, [replica], [shorter])) == {"running": (0, 0, 12), "b": (1, 0, 2)}
    found = forecast(SHORTEST, [ReplicaJobs(running=running, can_pause=False)], [shorter])
    assert told(found) == {"running": (0, 0, 10), "b": (1, 10, 12)}


def test_who_is_late_by_its_own_steps_is_so_for_those_behind_it_and_still_no_longer_than_another() -> None:
    replica = ReplicaJobs(running=job("running", 4), late_seconds=5, held=[job("held", 7)])
    found = forecast(SHORTEST, [replica], [job("alike", 4)])
    assert told(found) == {"running": (0, 0, 9), "alike": (1, 9, 13), "held": (2, 13, 20)}
    early = ReplicaJobs(running=job("running", 4), late_seconds=-1)
    assert told(forecast(SHORTEST, [early], [job("b", 4)])) == {"running": (0, 0, 3), "b": (1, 3, 7)}


def test_by_arrival_it_is_a_line() -> None:
    replicas = [ReplicaJobs(running=job("r", 10)), ReplicaJobs(running=job("s", 4))]
    found = forecast(ARRIVAL, replicas, [job("a", 9), job("b", 1), job("c", 1)])
    assert told(found) == {"r": (0, 0, 10), "s": (0, 0, 4), "a": (1, 4, 13), "b": (2, 10, 11), "c": (3, 11, 12)}


def test_who_depends_on_an_unknown_rest_has_no_times() -> None:
    unknown = job("unknown")
    stuck = ReplicaJobs(running=unknown, can_pause=False)
    found = forecast(SHORTEST, [stuck], [job("a", 9), job("b", 1)])
    assert told(found) == {"unknown": (0, 0, None), "b": (1, None, None), "a": (2, None, None)}
    found = forecast(SHORTEST, [stuck, ReplicaJobs(running=job("r", 5))], [job("a", 9), job("b", 8)])
    assert told(found) == {"unknown": (0, 0, None), "r": (0, 0, 5), "b": (1, 5, 13), "a": (2, 13, 22)}
    found = forecast(ARRIVAL, [ReplicaJobs(running=job("r", 5))], [job("a", 9), job("u"), job("b", 8)])
    assert told(found) == {"r": (0, 0, 5), "a": (1, 5, 14), "u": (2, 14, None), "b": (3, None, None)}


def test_a_held_job_waits_for_its_own_replica() -> None:
    replicas = [ReplicaJobs(running=job("r", 10), held=[job("held", 12)]), ReplicaJobs()]
    assert told(forecast(SHORTEST, replicas, [])) == {"r": (0, 0, 10), "held": (1, 10, 22)}


def test_without_replicas_there_are_only_places() -> None:
    found = forecast(SHORTEST, [], [job("a", 9), job("b", 1), job("c", 2, priority=1)])
    assert told(found) == {"c": (1, None, None), "b": (2, None, None), "a": (3, None, None)}


def test_shares_and_deadlines_count() -> None:
    line = [job("a", 1, client="much"), job("b", 5), job("c", 9, due_seconds=13)]
    replica = ReplicaJobs(running=job("r", 3))
    found = forecast(SHORTEST, [replica], line, over_share={"much"})
    assert told(found) == {"r": (0, 0, 3), "c": (1, 3, 12), "b": (2, 12, 17), "a": (3, 17, 18)}


def test_a_replica_that_starts_takes_jobs_from_then_on() -> None:
    replicas = [ReplicaJobs(running=job("r", 10)), ReplicaJobs(begins_in=4)]
    found = forecast(ARRIVAL, replicas, [job("a", 9), job("b", 8)])
    assert [(found[key].begin_seconds, found[key].end_seconds) for key in "ab"] == [(4, 13), (10, 18)]
