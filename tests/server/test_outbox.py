"""The outbox: events of videos are kept with them until they are delivered, whatever becomes of the server."""

from __future__ import annotations

import signal
from pathlib import Path
from queue import Empty

import pytest
from sqlalchemy import Connection, text

from ringlight.core.errors import StoreError
from ringlight.core.warning import prompt_truncated
from ringlight.server.collection.store import JobStore, StoredDelivery
from ringlight.server.safety import webhooks as module
from ringlight.server.safety.webhooks import Outcome, WebhookDelivery
from tests.engine.processes import wait_until
from tests.server.served import Served
from tests.server.stores import new_job, opened
from tests.server.stores import postgres as postgres
from tests.server.stores import store as store
from tests.server.stores import url as url
from tests.server.test_webhooks import VIDEO, WHSEC, Receiver, Sender, unwrap
from tests.server.test_webhooks import receiver as receiver
from tests.server.test_webhooks import sender as sender

HOOK = "https://example.com/hook"


# One in memory


@pytest.mark.parametrize(("status", "outcome"), [(200, "delivered"), (410, "failed"), (500, "failed")])
def test_what_is_over_leaves_the_outbox(receiver: Receiver, sender: Sender, status: int, outcome: Outcome) -> None:
    receiver.statuses = (status,)
    webhooks = sender(receiver.url())
    webhooks.send(None, "video.completed", VIDEO)
    assert sender.wait() == [outcome]
    wait_until(lambda: not webhooks.outbox.waiting)


def test_a_video_that_is_deleted_is_told_of_no_more(receiver: Receiver, sender: Sender) -> None:
    receiver.statuses = (500,)
    receiver.gate.clear()
    webhooks = sender(receiver.url())
    webhooks.send(None, "video.completed", VIDEO)
    receiver.arrived.get(timeout=30)
    webhooks.outbox.events.clear()
    receiver.gate.set()
    assert sender.wait() == ["dropped"]
    assert len(receiver.got) == 1


def test_an_operator_who_is_to_hear_nothing_any_more_does_not(sender: Sender) -> None:
    webhooks = sender("", ("example.com",))
    webhooks.outbox.waiting[WebhookDelivery("evt_1", "video_1", None, 1.0)] = None
    webhooks.outbox.events["video_1"] = ("video.completed", VIDEO)
    webhooks.webhooks.wake()
    assert sender.wait() == ["dropped"]


def test_an_outbox_that_fails_loses_and_repeats_nothing(
    receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one event is on its way, and when another one comes."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    receiver.gate.clear()
    webhooks = sender(receiver.url())
    webhooks.send(None, "video.completed", VIDEO)
    receiver.arrived.get(timeout=30)
    webhooks.outbox.open = False
    receiver.gate.set()
    assert sender.wait() == ["delivered"]
    webhooks.send(None, "video.completed", VIDEO)
    with pytest.raises(Empty):
        receiver.arrived.get(timeout=0.2)
    assert len(webhooks.outbox.waiting) == 2
    webhooks.outbox.open = True
    assert sender.wait() == ["delivered"]
    wait_until(lambda: not webhooks.outbox.waiting)
    assert len({unwrap(got)["id"] for got in receiver.got}) == len(receiver.got) == 2


# One in a database


def add_and_finish(store: JobStore, completed_at: float, hook: str | None = None, tells_operator: bool = True) -> str:
    """The id of a job that has ended."""
    job = store.add(new_job(webhook_url=hook))
    assert store.finish(job.id, "completed", completed_at, None, tells_operator=tells_operator)
    return job.id


def test_with_the_first_end_it_is_noted_whom_to_tell(store: JobStore) -> None:
    job_id = add_and_finish(store, 5.0, HOOK)
    assert not store.finish(job_id, "failed", 6.0, None, tells_operator=True)
    one, other = sorted(store.settle((), 10), key=lambda each: each.url or "")
    assert (one, other) == (
        StoredDelivery(one.event_id, job_id, None, 5.0),
        StoredDelivery(one.event_id, job_id, HOOK, 5.0),
    )


def test_nobody_is_told_who_did_not_ask(store: JobStore) -> None:
    add_and_finish(store, 5.0, tells_operator=False)
    assert store.settle((), 10) == []
    add_and_finish(store, 5.0, HOOK, tells_operator=False)
    assert [each.url for each in store.settle((), 10)] == [HOOK]


def test_there_is_no_end_without_its_notes(store: JobStore) -> None:
    job = store.add(new_job(webhook_url=HOOK))
    with store._database.write() as connection:
        connection.execute(text("DROP TABLE deliveries"))
    with pytest.raises(StoreError, match="deliveries"):
        store.finish(job.id, "completed", 5.0, None, tells_operator=True)
    assert store.get(job.id) == job


def test_what_is_over_is_forgotten_and_the_rest_is_there_for_the_next_server(url: str) -> None:
    with opened(url) as store:
        for when in (7.0, 5.0, 6.0):
            add_and_finish(store, when, HOOK)
        waiting = store.settle((), 10)
        assert [each.created_at for each in waiting] == [5.0, 5.0, 6.0, 6.0, 7.0, 7.0]
        assert store.settle((), 2) == waiting[:2]
        assert store.settle((waiting[0], waiting[3]), 0) == []
    with opened(url) as store:
        left = [waiting[1], waiting[2], *waiting[4:]]
        assert store.settle((), 10) == left
        assert store.settle(waiting, 10) == []  # also those that are not there


def test_a_deleted_video_takes_its_events_along(store: JobStore) -> None:
    gone, kept = add_and_finish(store, 5.0, HOOK), add_and_finish(store, 6.0)
    store.delete(gone)
    assert [each.job_id for each in store.settle((), 10)] == [kept]


def forget_media(connection: Connection) -> None:
    """The tables as version 5 had them."""
    connection.execute(text("DROP TABLE media_claims"))
    for column in ("made_at", "media_url"):
        connection.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))


def forget_pauses(connection: Connection) -> None:
    """The tables as version 4 had them."""
    forget_media(connection)
    for column in ("saved_step", "pauses", "paused_seconds", "paused_at"):
        connection.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))


def forget_batches(connection: Connection) -> None:
    """The tables as version 3 had them."""
    forget_pauses(connection)
    connection.execute(text("DROP TABLE batch_rows"))
    connection.execute(text("DROP TABLE batches"))
    connection.execute(text("ALTER TABLE jobs DROP COLUMN batch_id"))


def forget_what_was_asked(connection: Connection) -> None:
    """The tables as version 2 had them."""
    forget_batches(connection)
    for column in ("seconds", "warnings"):
        connection.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))


def test_a_database_of_before_gets_an_outbox_and_keeps_its_jobs(url: str) -> None:
    with opened(url) as store:
        jobs = [store.add(new_job(created_at=float(when), webhook_url=HOOK)) for when in range(3)]
        store.finish(jobs[0].id, "failed", 5.0, None)
        ended = store.get(jobs[0].id)
        with store._database.write() as connection:  # as version 1 was
            connection.execute(text("DROP TABLE deliveries"))
            forget_what_was_asked(connection)
            connection.execute(text("UPDATE schema_version SET version = 1"))
    for _ in range(2):
        with opened(url) as store:
            assert store.list(None, None, 10, "asc") == ([ended, *jobs[1:]], False)
            assert store.settle((), 10) == []
    with opened(url) as store:
        assert store.finish(jobs[1].id, "completed", 6.0, None)
        assert [each.job_id for each in store.settle((), 10)] == [jobs[1].id]


def test_a_database_of_before_learns_what_was_asked_and_keeps_its_jobs(url: str) -> None:
    """Of version 2, whose jobs say nothing of it."""
    with opened(url) as store:
        jobs = [store.add(new_job(created_at=float(when))) for when in range(2)]
        with store._database.write() as connection:
            forget_what_was_asked(connection)
            connection.execute(text("UPDATE schema_version SET version = 2"))
    with opened(url) as store:
        assert store.list(None, None, 10, "asc") == (jobs, False)
        told = new_job(seconds="4", warnings=(prompt_truncated("prompt", 600, 512),))
        assert store.get(store.add(told).id) == told
        assert store.finish(jobs[0].id, "completed", 1.0, None, warnings=told.warnings)
        assert store.get(jobs[0].id).warnings == told.warnings


def test_a_database_of_before_learns_of_batches_and_keeps_its_jobs(url: str) -> None:
    with opened(url) as store:
        job = store.add(new_job())
        with store._database.write() as connection:
            forget_batches(connection)
            connection.execute(text("UPDATE schema_version SET version = 3"))
    with opened(url) as store:
        assert store.unfinished() == [job]
        assert store.batches.list(None, None, 10, "asc") == ([], False)


def test_a_database_of_before_learns_of_pauses_and_keeps_its_jobs(url: str) -> None:
    with opened(url) as store:
        job = store.add(new_job(progress=40))
        with store._database.write() as connection:
            forget_pauses(connection)
            connection.execute(text("UPDATE schema_version SET version = 4"))
    with opened(url) as store:
        assert store.unfinished() == [job]
        store.mark(job.id, pauses=2, paused_seconds=0.5, paused_at=7.0, saved_step=3)
        (paused,) = store.unfinished()
        assert (paused.known.stage, paused.known.step, paused.pauses_at(8.0).paused_seconds) == ("Paused", 3, 1.5)


# Servers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "number"), [("sqlite", signal.SIGKILL), ("postgresql", signal.SIGTERM)], indirect=["url"]
)
def test_the_next_server_delivers_what_one_that_ended_could_not(
    url: str, tmp_path: Path, tiny: Path, receiver: Receiver, number: signal.Signals
) -> None:
    receiver.statuses = (500, 204)  # one try of the first server, one of the next
    (tmp_path / "secret").write_text(WHSEC)
    options = (
        "--webhook-url",
        receiver.url(),
        "--webhook-secret-file",
        tmp_path / "secret",
        "--store-url",
        url,
        "--no-warm-up",
    )
    first = Served(tmp_path, tiny, *options)
    try:
        first.wait_until_ready()
        video = first.completed()
        receiver.arrived.get(timeout=30)
    finally:
        first.stop(number)
    second = Served(tmp_path, tiny, *options)
    try:
        second.wait_until_listening()
        receiver.arrived.get(timeout=30)
        assert second.get(video["id"]) == video
    finally:
        assert second.stop() == 0
    refused, taken = (unwrap(got) for got in receiver.got)
    assert refused == taken and taken["type"] == "video.completed" and taken["data"] == video
    with opened(url) as store:
        assert store.settle((), 10) == []
