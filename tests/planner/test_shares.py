"""Who has used more than its share of the replicas."""

from __future__ import annotations

from ringlight.planner.shares import WINDOW_SECONDS, Shares


def used(num_replicas: int = 1, **seconds: float) -> Shares:
    shares = Shares(num_replicas)
    for client, each in seconds.items():
        shares.add(client, each, now=0.0)
    return shares


def test_a_client_alone_is_never_over() -> None:
    assert used(a=2 * WINDOW_SECONDS).over(["a", "a"], now=1.0) == set()


def test_a_share_is_an_equal_part_of_what_replicas_give_those_with_work() -> None:
    half = WINDOW_SECONDS / 2
    assert used(a=1.2 * half).over("ab", now=1.0) == set()
    assert used(a=1.3 * half).over("ab", now=1.0) == {"a"}
    assert used(a=1.3 * half, num_replicas=2).over("ab", now=1.0) == set()
    assert used(a=0.8 * half, b=0.9 * half).over("abc", now=1.0) == {"b"}


def test_who_is_over_stays_so_until_it_has_used_no_more_than_its_share() -> None:
    shares, half = Shares(), WINDOW_SECONDS / 2
    shares.add("a", 0.08 * half, now=0.0)
    shares.add("a", 0.99 * half, now=10.0)
    assert shares.over("ab", now=10.0) == set()
    shares.add("a", 0.2 * half, now=20.0)
    assert shares.over("ab", now=20.0) == {"a"}
    assert shares.over("ab", now=WINDOW_SECONDS) == {"a"}, "1.19 of its share: what it was"
    assert shares.over("ab", now=WINDOW_SECONDS + 10.0) == set()


def test_what_a_client_has_used_lately_is_told() -> None:
    shares = used(a=2.0)
    shares.add("a", 3.0, now=5.0)
    assert (shares.used("a"), shares.used("b")) == (5.0, 0.0)


def test_what_was_used_is_forgotten_after_the_window() -> None:
    shares = used(a=WINDOW_SECONDS)
    assert shares.over("ab", now=WINDOW_SECONDS - 1) == {"a"}
    assert shares.over("ab", now=WINDOW_SECONDS) == set()
