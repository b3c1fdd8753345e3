"""The order in which jobs are taken, and for whom the running one makes way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ringlight.planner.scheduling import MAKES_WAY_BELOW, Candidate, Policy

NUMBERS = itertools.count()


def job(key: str, rest: float = math.inf, **told: object) -> Candidate:
    return Candidate(key=key, arrival=next(NUMBERS), rest_seconds=rest, whole_seconds=rest, **told)  # type: ignore[arg-type]


def keys(candidates: list[Candidate]) -> str:
    return "".join(each.key for each in candidates)


SECONDS = st.floats(1, 15)
DUES = st.one_of(st.none(), st.integers(1, 30))
LINES = st.lists(st.tuples(st.integers(1, 12), DUES), min_size=1, max_size=6).map(
    lambda drawn: [job(str(number), rest, due_seconds=due) for number, (rest, due) in enumerate(drawn)]
)


def in_time(candidates: Sequence[Candidate]) -> int:
    """How many deadlines one replica keeps that takes them in this order."""
    ends = itertools.accumulate(each.rest_seconds for each in candidates)
    return sum(
        each.due_seconds is not None and end <= each.due_seconds for each, end in zip(candidates, ends, strict=True)
    )


def mean(candidates: Sequence[Candidate]) -> float:
    """The mean seconds until one replica has made them in this order."""
    return sum(itertools.accumulate(each.rest_seconds for each in candidates)) / len(candidates)


class TestOrder:
    def test_the_shortest_rest_is_next_and_unknown_ones_come_last_as_they_came(self) -> None:
        line = [job("a"), job("b", 9), job("c", 2), job("d"), job("e", 2)]
        assert keys(Policy().ordered(line)) == "cebad"

    def test_of_equal_rests_goes_first_whose_client_has_used_least(self) -> None:
        line = [job("a", 2, used_seconds=9.0), job("b", 3), *(job(key, 2, used_seconds=1.0) for key in "cd")]
        assert keys(Policy().ordered(line)) == "cdab"
        dated = [replace(each, due_seconds=100.0) for each in line]
        assert keys(Policy().ordered(dated)) == "cdab"
        assert keys(Policy(scheduling="arrival").ordered(line)) == "abcd"
        assert Policy().newcomer(replace(line[0], rest_seconds=2.4), [line[2]]) is None, "no reason for a pause"

    def test_priority_goes_above_all_but_workers_that_died_twice(self) -> None:
        line = [
            job("a", 1, is_last=True, priority=9),
            job("b", 1, client="much"),
            job("c", 5, due_seconds=5),
            job("d", 50, priority=1),
            job("e", 90, priority=2, client="much"),
        ]
        assert keys(Policy().ordered(line, over_share={"much"})) == "edcba"

    def test_by_arrival_rests_shares_and_deadlines_count_for_nothing(self) -> None:
        line = [job("a", 9, client="much"), job("b", 1, due_seconds=1), job("c", 5, priority=1), job("d", is_last=True)]
        policy = Policy(scheduling="arrival")
        assert keys(policy.ordered(line[::-1], over_share={"much"})) == "cabd"
        assert policy.newcomer(line[0], line[1:]) is None

    def test_far_deadlines_change_nothing_and_a_near_one_goes_first(self) -> None:
        rests = {"a": 8.0, "b": 1.0, "c": 3.0}
        far = [job(key, rest, due_seconds=100.0) for key, rest in rests.items()]
        assert keys(Policy().ordered(far)) == "bca"
        near = [job(key, rest, due_seconds=8.5 if key == "a" else None) for key, rest in rests.items()]
        assert keys(Policy().ordered(near)) == "abc"
        with_slack = [job(key, rest, due_seconds=9.0 if key == "a" else None) for key, rest in rests.items()]
        assert keys(Policy().ordered(with_slack)) == "bac"

    def test_a_deadline_that_cannot_be_kept_counts_as_none(self) -> None:
        line = [job("a", 8, due_seconds=7), job("b", 1), job("c", 3)]
        assert keys(Policy().ordered(line)) == "bca"

    def test_what_is_of_a_higher_place_is_counted_before_a_deadline(self) -> None:
        line = [job("a", 4, priority=1), job("b", 8, due_seconds=9), job("c", 2)]
        assert keys(Policy().ordered(line)) == "acb"

    def test_several_replicas_keep_deadlines_that_one_cannot(self) -> None:
        line = [job("a", 4, due_seconds=6), job("b", 4, due_seconds=6), job("c", 1)]
        assert keys(Policy().ordered(line)) == "cab"
        assert keys(Policy(num_replicas=2).ordered(line)) == "abc"

    def test_with_a_bound_who_waited_too_long_is_not_overtaken(self) -> None:
        line = [job("a", 10, waited_seconds=200), job("b", 1), job("c", 5, waited_seconds=100)]
        assert keys(Policy().ordered(line)) == "bca"
        assert keys(Policy(max_slowdown=20).ordered(line)) == "acb"

    @settings(max_examples=60, deadline=None)
    @given(LINES)
    def test_no_order_keeps_more_deadlines_and_of_those_that_keep_all_none_has_a_lower_mean(
        self, line: list[Candidate]
    ) -> None:
        ordered = Policy().ordered(line)
        orders = list(itertools.permutations(line))
        most = max(in_time(order) for order in orders)
        assert in_time(ordered) == most
        if most == sum(each.due_seconds is not None for each in line):
            assert mean(ordered) == min(mean(order) for order in orders if in_time(order) == most)


class TestNewcomer:
    def test_who_is_hardly_shorter_waits(self) -> None:
        running = job("a", 10)
        assert Policy().newcomer(running, [job("b", 10 * MAKES_WAY_BELOW), job("c", 20)]) is None
        shorter = job("d", 7.9)
        assert Policy().newcomer(running, [job("b", 9), shorter]) is shorter

    def test_priority_and_share_need_no_shorter_rest(self) -> None:
        running = job("a", 10, client="much")
        urgent, modest = job("b", 90, priority=1), job("c", 90, client="little")
        assert Policy().newcomer(running, [urgent, modest]) is urgent
        assert Policy().newcomer(running, [modest]) is None
        assert Policy().newcomer(running, [modest], over_share={"much"}) is modest
        assert Policy().newcomer(modest, [running], over_share={"much"}) is None

    def test_a_deadline_that_would_be_missed_is_a_reason(self) -> None:
        running = job("a", 10)
        assert Policy().newcomer(running, [job("b", 20, due_seconds=31)]) is None
        near = job("b", 20, due_seconds=29)
        assert Policy().newcomer(running, [near]) is near

    def test_a_deadline_kept_at_the_price_of_another_is_none(self) -> None:
        running, other = job("a", 10, due_seconds=11), job("b", 9, due_seconds=10)
        assert keys(Policy().ordered([running, other])) == "ba"
        assert Policy().newcomer(running, [other]) is None

    def test_an_unknown_one_makes_way_for_a_known_one(self) -> None:
        known = job("b", 99)
        assert Policy().newcomer(job("a"), [known]) is known
        assert Policy().newcomer(known, [job("c")]) is None

    @settings(max_examples=100, deadline=None)
    @given(rests=st.tuples(SECONDS, SECONDS), dues=st.tuples(DUES, DUES), step=st.sampled_from((0.01, 0.07, 0.3)))
    def test_two_jobs_do_not_swap_back_and_forth(
        self, rests: tuple[float, float], dues: tuple[int | None, int | None], step: float
    ) -> None:
        """Looked at after each step, the turn changes at most once before one of them is over."""
        running, waiting = (job(key, rest, due_seconds=due) for key, rest, due in zip("ab", rests, dues, strict=True))
        changes = 0
        while running.rest_seconds > 0:
            if Policy().newcomer(running, [waiting]) is not None:
                running, waiting, changes = waiting, running, changes + 1
            running, waiting = later(running, step, rest=max(0.0, running.rest_seconds - step)), later(waiting, step)
        assert changes <= 1


def later(candidate: Candidate, seconds: float, rest: float | None = None) -> Candidate:
    """The same job so many seconds later."""
    due = None if candidate.due_seconds is None else candidate.due_seconds - seconds
    return replace(candidate, due_seconds=due, rest_seconds=candidate.rest_seconds if rest is None else rest)
