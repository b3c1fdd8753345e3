"""Batches in both databases: whole or not there, each request once, and known for as long as the batch is."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from ringlight.core.errors import NotFound, QueueFull
from ringlight.server.collection import batch_store
from ringlight.server.collection.store import JobStore
from ringlight.server.collection.stored import StoredBatch, StoredJob
from ringlight.wire.video import VideoError
from tests.server.stores import at_once, new_job, opened
from tests.server.stores import postgres as postgres
from tests.server.stores import store as store
from tests.server.stores import url as url

CANCELLED = VideoError(code="cancelled", message="cancelled", type="cancelled")


def new_batch(name: str = "films", owner: str = "", created_at: float = 1.0) -> StoredBatch:
    return StoredBatch(id=f"batch_{uuid.uuid4().hex}", owner=owner, name=name, created_at=created_at)


def rows_of(*keys: str, **changes: object) -> dict[str, StoredJob]:
    return {key: new_job(key, created_at=float(number), **changes) for number, key in enumerate(keys)}


def test_requests_are_added_once_by_their_keys(url: str) -> None:
    with opened(url) as store:
        first = rows_of("a", "b")
        batch, ids = store.batches.add(new_batch(), first)
        assert ids == {key: job.id for key, job in first.items()}
    with opened(url) as store:
        again, ids = store.batches.add(new_batch(), second := rows_of("b", "c"))
        assert again == batch
        assert ids == {"a": first["a"].id, "b": first["b"].id, "c": second["c"].id}
        assert [row.job_id for row in store.batches.rows(batch.id)] == [first["a"].id, first["b"].id, second["c"].id]
        assert store.get(first["a"].id) == msgspec.structs.replace(first["a"], batch_id=batch.id)
        with pytest.raises(NotFound):
            store.get(second["b"].id)


def test_the_same_batch_sent_at_once_is_one(store: JobStore) -> None:
    calls = [lambda: store.batches.add(new_batch(), rows_of("a", "b")) for _ in range(4)]
    assert len({(batch.id, *ids.values()) for batch, ids in at_once(*calls)}) == 1
    assert len(store.batches.waiting(10)) == 2


def test_batches_are_their_owners(store: JobStore) -> None:
    mine, ids = store.batches.add(new_batch(owner="ann"), rows_of("a", owner="ann"))
    theirs, others = store.batches.add(new_batch(owner="bob", created_at=2.0), rows_of("a", owner="bob"))
    assert mine.id != theirs.id and ids["a"] != others["a"]
    assert store.batches.list("ann", None, 10, "desc") == ([mine], False)
    assert store.batches.list(None, None, 1, "desc") == ([theirs], True)
    assert store.batches.list(None, theirs.id, 1, "desc") == ([mine], False)
    for wrong in (theirs.id, "batch_\0"):
        with pytest.raises(NotFound):
            store.batches.get(wrong, "ann")


def test_what_was_made_or_deleted_is_known_and_what_failed_can_be_made_anew(store: JobStore) -> None:
    batch, ids = store.batches.add(new_batch(), rows_of("made", "failed", "gone"))
    assert store.finish(ids["made"], "completed", 5.0, None)
    assert store.finish(ids["failed"], "failed", 6.0, None, CANCELLED)
    store.delete(ids["gone"])
    rows = store.batches.rows(batch.id)
    assert [row.status for row in rows] == ["completed", "failed", None]
    assert (rows[1].completed_at, rows[1].error) == (6.0, CANCELLED)
    assert store.batches.add(new_batch(), rows_of("made", "failed", "gone"))[1] == ids
    again = store.batches.add(new_batch(), rows_of("made", "failed", "gone"), retry_failed=True)[1]
    assert {key for key in ids if again[key] != ids[key]} == {"failed"}
    assert [row.job_id for row in store.batches.rows(batch.id)] == [again["made"], again["failed"], again["gone"]]


def test_what_waits_has_an_order_and_is_nothing_that_another_server_takes_up(store: JobStore) -> None:
    plain = store.add(new_job())
    rows = rows_of("low", "high", "due", "late")
    changed = {"high": {"priority": 3}, "due": {"deadline_at": 9.0}, "low": {"priority": -5}, "late": {"priority": -5}}
    rows = {key: msgspec.structs.replace(job, **changed[key]) for key, job in rows.items()}
    _, ids = store.batches.add(new_batch(), rows)
    assert [job.id for job in store.batches.waiting(10)] == [ids[key] for key in ("due", "high", "low", "late")]
    assert [job.id for job in store.batches.waiting(2)] == [ids["due"], ids["high"]]
    store.mark(ids["high"], status="in_progress")
    assert [job.id for job in store.unfinished()] == [ids["high"], plain.id]


def test_all_of_a_batch_fail_at_once_and_whom_to_tell_is_noted(store: JobStore) -> None:
    _, ids = store.batches.add(new_batch(), rows_of("a", "b", "c", webhook_url="https://example.com"))
    assert store.finish(ids["a"], "completed", 5.0, None)
    assert list(store.batches.fail(list(ids.values()), 7.0, 9.0, CANCELLED, False)) == [ids["b"], ids["c"]]
    assert store.get(ids["a"]).status == "completed"
    failed = store.get(ids["b"])
    assert (failed.status, failed.completed_at, failed.expires_at, failed.error) == ("failed", 7.0, 9.0, CANCELLED)
    assert {each.job_id for each in store.settle((), 10)} == set(ids.values())


def test_a_deleted_batch_is_forgotten_with_its_jobs(store: JobStore) -> None:
    batch, ids = store.batches.add(new_batch(), rows_of("a", "b"))
    other = store.add(new_job())
    store.batches.delete(batch.id)
    assert store.batches.rows(batch.id) == []
    assert [job.id for job in store.list(None, None, 10, "asc")[0]] == [other.id]
    assert store.batches.add(new_batch(), rows_of("a"))[1]["a"] != ids["a"]


def test_no_more_wait_than_may(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "MAX_WAITING", 3)
    store.batches.add(new_batch(), rows_of("a", "b"))
    with pytest.raises(QueueFull):
        store.batches.add(new_batch("others"), rows_of("c", "d"))
    assert len(store.batches.list(None, None, 10, "asc")[0]) == 1
    store.batches.add(new_batch(), rows_of("a", "b", "c"))
