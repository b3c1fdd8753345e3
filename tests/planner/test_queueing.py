"""What happens next in a line: who has the turn, when it is left, and what that costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ringlight.core.settings import Scheduling
from ringlight.planner.forecast import ReplicaJobs, forecast
from ringlight.planner.queueing import play
from ringlight.planner.scheduling import Policy
from ringlight.planner.shares import OVER, WINDOW_SECONDS, Shares
from ringlight.planner.task import Service, Station, Task
from tests.planner.test_scheduling import job

FILM = Service(before_seconds=2.0, num_steps=10, step_seconds=1.0, after_seconds=3.0, output_seconds=0.5)
CLIP = Service(before_seconds=0.2, num_steps=4, step_seconds=0.1, after_seconds=0.4)


def task(key: str, service: Service, arrives: float, **told: object) -> Task:
    return Task(job=replace(job(key, service.busy_seconds), **told), service=service, arrives=arrives)


def ends(*tasks: Task, stations: int = 1, policy: Policy | None = None, **how: object) -> list[float]:
    play(tasks, [Station() for _ in range(stations)], policy or Policy(), **how)  # type: ignore[arg-type]
    return [pytest.approx(each.end) for each in tasks]


@pytest.mark.parametrize(
    ("arrives", "after_seconds", "begins"),
    [(0.5, 2.8, 2.0), (2.0, 2.8, 2.0), (4.4, 2.8, 5.0), (11.3, 2.8, 15.0), (12.1, 0.1, 15.0)],
    ids=["in the text", "before its first step", "in a step", "hardly shorter", "in decoding"],
)
def test_a_film_is_left_at_a_boundary_and_nowhere_else(arrives: float, after_seconds: float, begins: float) -> None:
    film, clip = task("film", FILM, 0.0), task("clip", replace(CLIP, after_seconds=after_seconds), arrives)
    play([film, clip], [Station()], Policy(), pause_seconds=0.25)
    if begins < 15:
        assert (clip.begin, film.pauses) == (pytest.approx(begins + 0.25), 1)
        assert film.end == pytest.approx(15.5 + 0.25 + clip.service.busy_seconds)
    else:
        assert (clip.begin, film.pauses, film.end) == (pytest.approx(begins), 0, 15.5)


def test_after_its_last_step_a_film_is_left_too() -> None:
    film, clip = task("film", FILM, 0.0), task("clip", CLIP, 11.5)
    assert ends(film, clip) == [16.5, 13.0]


def test_two_that_come_while_a_step_goes_on_take_turns_by_their_rest() -> None:
    film, long, short = task("film", FILM, 0.0), task("b", replace(CLIP, num_steps=20), 4.2), task("c", CLIP, 4.4)
    assert ends(film, long, short) == [15.5 + 3.6, 5.0 + 1.0 + 2.6, 6.0]


@pytest.mark.parametrize("policy", [Policy(scheduling="arrival"), Policy(pauses=False)], ids=["arrival", "no pauses"])
def test_without_pauses_a_clip_waits(policy: Policy) -> None:
    assert ends(task("film", FILM, 0.0), task("clip", CLIP, 1.0), policy=policy) == [15.5, 16.0]


def test_a_held_film_goes_on_where_it_was() -> None:
    """Both replicas leave a film for a clip; one that is free again does not take the other's film."""
    films = [task("a", FILM, 0.0), task("b", FILM, 0.0)]
    clips = [task("c", CLIP, 3.5), task("d", replace(CLIP, num_steps=20), 3.5)]
    assert ends(*films, *clips, stations=2) == [16.5, 18.1, 5.0, 6.6]
    assert [each.pauses for each in films] == [1, 1]


def test_a_deadline_that_comes_near_is_a_reason_while_a_step_goes_on() -> None:
    film, dated = task("film", FILM, 0.0), task("dated", FILM, 0.5, due_seconds=18.0)
    assert ends(film, dated) == [30.5, 17.5]
    assert ends(task("film", FILM, 0.0), task("dated", FILM, 0.5, due_seconds=16.0)) == [15.5, 30.5], "it cannot be"


def test_a_client_over_its_share_waits_and_its_seconds_count() -> None:
    shares = Shares()
    shares.add("much", WINDOW_SECONDS, now=0.0)
    line = [task("much", CLIP, 1.0, client="much"), task("little", FILM, 1.0, client="little")]
    assert ends(*line, shares=shares) == [17.0, 16.5]
    assert ends(task("much", CLIP, 1.0, client="much"), task("little", FILM, 1.0), over_share={"much"}) == [17.0, 16.5]
    fresh = Shares()
    assert ends(*(task(name, CLIP, 0.0, client=name) for name in "ab"), shares=fresh) == [1.0, 2.0]
    assert fresh.over("ab", now=3.0) == set()
    fresh.add("a", OVER * WINDOW_SECONDS / 2 - 0.99, now=4.0)
    assert fresh.over("ab", now=4.0) == {"a"}, "its second of a turn is counted"


SECONDS = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(
    rests=st.lists(st.tuples(SECONDS, st.one_of(st.none(), SECONDS)), min_size=1, max_size=6),
    num_replicas=st.integers(1, 3),
    scheduling=st.sampled_from(("arrival", "shortest")),
)
def test_a_forecast_is_what_happens_if_nobody_comes(
    rests: list[tuple[int, int | None]], num_replicas: int, scheduling: Scheduling
) -> None:
    """But for pauses in the middle for a deadline, where several replicas judge it by halves."""
    policy = Policy(scheduling=scheduling, num_replicas=num_replicas)
    line = [
        job(str(number), rest, due_seconds=due if num_replicas == 1 else None)
        for number, (rest, due) in enumerate(rests)
    ]
    tasks = [
        Task(job=each, service=Service(num_steps=4, step_seconds=each.rest_seconds / 4), arrives=0.0) for each in line
    ]
    play(tasks, [Station() for _ in range(num_replicas)], policy)
    found = forecast(policy, [ReplicaJobs()] * num_replicas, line)
    for each in tasks:
        assert found[each.job.key].end_seconds == pytest.approx(each.end)
        assert found[each.job.key].begin_seconds == pytest.approx(each.begin)
    begun = sorted(tasks, key=lambda each: found[each.job.key].position)
    assert [each.begin for each in begun] == sorted(each.begin for each in tasks)
