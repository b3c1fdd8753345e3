"""JobStore's idempotency keys, on both databases: one job for one key, as long as it counts."""

from __future__ import annotations

import time
from functools import partial

import pytest

from ringlight.server.collection.store import Idempotency, JobStore
from ringlight.server.http.http_error import IdempotencyConflict
from tests.server.stores import at_once, new_job, opened
from tests.server.stores import postgres as postgres
from tests.server.stores import store as store
from tests.server.stores import url as url


def test_the_same_key_and_body_are_one_job(store: JobStore) -> None:
    key = Idempotency("key", "body")
    assert store.find("ann", key) is None
    first = store.add(new_job(owner="ann"), key)
    assert store.add(new_job(owner="ann"), key) == first
    assert store.find("ann", key) == first
    assert store.unfinished() == [first]


def test_the_same_key_with_another_body_is_refused(store: JobStore) -> None:
    first = store.add(new_job(), Idempotency("key", "body"))
    with pytest.raises(IdempotencyConflict, match="'key'"):
        store.add(new_job(), Idempotency("key", "other"))
    with pytest.raises(IdempotencyConflict):
        store.find("", Idempotency("key", "other"))
    assert store.unfinished() == [first]


def test_keys_are_apart_by_owner_and_by_every_character(store: JobStore) -> None:
    keys = ["a", "A", "a ", "", "\0", "a\0b", "é", "e\u0301", "x" * 9_999, "x" * 10_000, "\ud800"]
    jobs = {
        (owner, key): store.add(new_job(owner=owner), Idempotency(key, "body")) for owner in ("", "ann") for key in keys
    }
    assert len({job.id for job in jobs.values()}) == 2 * len(keys)
    for (owner, key), job in jobs.items():
        assert store.find(owner, Idempotency(key, "body")) == job


def test_a_key_lives_as_long_as_its_job_whatever_became_of_it(store: JobStore) -> None:
    key = Idempotency("key", "body")
    first = store.add(new_job(created_at=0.0), key)
    store.finish(first.id, "failed", 1.0, None)
    assert store.add(new_job(), key).id == first.id
    assert store.delete(first.id)
    assert store.find("", key) is None
    with store._database.read() as connection:  # a key that outlived its job would be seen nowhere else
        assert connection.exec_driver_sql("SELECT count(*) FROM idempotencies").scalar() == 0
    second = store.add(new_job(), Idempotency("key", "other"))
    assert store.find("", Idempotency("key", "other")) == second


def test_within_a_window_only_a_recent_job_counts(url: str) -> None:
    """Also of an earlier server, by the time of its creation."""
    now = time.time()
    with opened(url) as store:
        recent = store.add(new_job(created_at=now - 60), Idempotency("recent", "body", 120.0))
        assert store.add(new_job(), Idempotency("recent", "body", 120.0)) == recent
        with pytest.raises(IdempotencyConflict):
            store.find("", Idempotency("recent", "other", 120.0))
        old = store.add(new_job(created_at=now - 180), Idempotency("old", "body", 120.0))

    with opened(url) as store:
        assert store.add(new_job(), Idempotency("recent", "body", 120.0)) == recent
        assert store.find("", Idempotency("old", "body", 120.0)) is None
        assert store.find("", Idempotency("old", "body")) == old
        new = store.add(new_job(), Idempotency("old", "other", 120.0))  # the key moves to it
        assert store.find("", Idempotency("old", "other")) == new
        store.delete(old.id)  # which takes nothing of the new one's along
        assert store.find("", Idempotency("old", "other")) == new


def test_creations_at_once_with_one_key_make_one_job(store: JobStore) -> None:
    for round_number in range(10):
        key = Idempotency(f"key {round_number}", "body")
        kept = at_once(*(partial(store.add, new_job(), key) for _ in range(8)))
        assert len({job.id for job in kept}) == 1
    assert len(store.unfinished()) == 10
