"""JobStore on both databases: what goes in comes out, in order, once, and for its owner only."""

from __future__ import annotations

import random
import threading
from typing import Literal

import msgspec
import pytest

from ringlight.core.errors import NotFound, StoreError
from ringlight.core.warning import prompt_truncated
from ringlight.server.collection.store import JobStore, StoredJob
from ringlight.wire.video import VideoError
from tests.server.stores import at_once, new_job, opened
from tests.server.stores import postgres as postgres
from tests.server.stores import store as store
from tests.server.stores import url as url

replace = msgspec.structs.replace
NUM_RACES = 100


# One job


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "eine Straße; DROP TABLE jobs; -- 'q' \"d\" %s :id ? \\ \\u0041",
        "👩‍👩‍👧‍👦 🏳️‍🌈 漢字 한글 e\u0301 \U0010ffff \ufeff",
        "\u202eשלום עולם\u202c مرحبا بالعالم",
        "\n\r\t\u2028\u0085\x1f\x7f",
        "長" * 20_000,
    ],
    ids=["empty", "quotes", "emoji", "right to left", "controls", "long"],
)
def test_any_text_comes_back_as_it_was(store: JobStore, prompt: str) -> None:
    job = new_job(prompt, user=prompt, owner="ключ", model=prompt)
    assert store.add(job) == job
    assert store.get(job.id) == job


def test_every_field_is_kept_also_by_the_next_server(url: str) -> None:
    job = new_job(
        owner="ann",
        status="queued",
        has_image=True,
        layout="c2u1r2",
        priority=-10,
        user="u",
        webhook_url="https://example.com/hook",
        remixed_from="video_1",
        continues="video_2",
        frames_before=16,
        batch_id="batch_1",
        seconds="4",
        warnings=(prompt_truncated("prompt", 600, 512),),
        created_at=1795512884.1392002,
        deadline_at=0.1 + 0.2,
    )
    at_defaults = [
        field.name
        for field in msgspec.structs.fields(StoredJob)
        if field.default is not msgspec.NODEFAULT and getattr(job, field.name) == field.default
    ]
    changed_later = ["started_at", "completed_at", "expires_at", "progress", "saved_step", "deaths"]
    changed_later += ["pauses", "paused_seconds", "paused_at", "error", "has_report"]
    # So that a new field is tried here too.
    assert at_defaults == ["status", *changed_later, "output_bytes", "made_at", "media_url"]
    error = VideoError("output_error", "the disk is full", "size", "invalid_request_error")
    store = JobStore(url)
    store.add(job)
    store.mark(job.id, status="in_progress", started_at=3.5, progress=42, deaths=2, layout="u2r1")
    store.mark(job.id, saved_step=7, pauses=3, paused_seconds=0.25, paused_at=6.5)
    assert store.uploads.note_made(job.id, 6.5, 3.5, 2, b"a report", ())
    assert store.finish(job.id, "failed", 7.25, 9.75, error, b"\x00report\xff", 2**40, media_url="s3://b/p")
    expected = replace(
        job,
        status="failed",
        started_at=3.5,
        completed_at=7.25,
        expires_at=9.75,
        progress=99,
        saved_step=7,
        deaths=2,
        pauses=3,
        paused_seconds=0.25,
        paused_at=6.5,
        layout="u2r1",
        error=error,
        has_report=True,
        output_bytes=2**40,
        made_at=6.5,
        media_url="s3://b/p",
    )
    assert store.get(job.id) == expected
    store.close()
    store = JobStore(url)
    assert store.get(job.id) == expected
    assert store.report(job.id) == b"\x00report\xff"
    store.close()


def test_a_video_that_is_made_is_noted_once_and_not_after_its_end(store: JobStore) -> None:
    job = store.add(new_job())
    assert store.uploads.note_made(job.id, 2.0, 1.0, 1, b"a report", (prompt_truncated("prompt", 600, 512),))
    (noted,) = store.unfinished()
    assert (noted.status, noted.made_at, noted.started_at, noted.deaths) == ("in_progress", 2.0, 1.0, 1)
    assert (noted.progress, noted.has_report, len(noted.warnings)) == (99, False, 1)
    assert store.report(job.id) == b"a report"
    assert store.finish(job.id, "failed", 3.0, None)
    assert not store.uploads.note_made(job.id, 4.0, 1.0, 1, b"another", ())
    assert not store.uploads.note_made("video_of_nobody", 4.0, 1.0, 1, b"another", ())
    assert store.get(job.id).made_at == 2.0


def test_a_claim_to_a_place_is_made_once(url: str) -> None:
    with opened(url) as store:
        claim = store.uploads.claim("s3://bucket/a")
        assert store.uploads.claim("s3://bucket/b") != claim
    with opened(url) as store:
        assert store.uploads.claim("s3://bucket/a") == claim


@pytest.mark.parametrize(
    "job_id", ["", "video_", "../jobs.sqlite", "video_\0", "\0", "\ud800", "%", "_" * 38, "v" * 10_000]
)
def test_what_is_no_id_is_not_found(store: JobStore, job_id: str) -> None:
    store.add(new_job())
    with pytest.raises(NotFound):
        store.get(job_id)
    with pytest.raises(NotFound):
        store.list(None, job_id, 10, "asc")


def test_a_job_is_its_owners(store: JobStore) -> None:
    mine, other, nobodys = (store.add(new_job(owner=owner)) for owner in ("ann", "bob", ""))
    assert store.get(mine.id, "ann") == store.get(mine.id) == mine
    for job, owner in ((mine, "bob"), (mine, ""), (mine, "ANN"), (nobodys, "ann")):
        with pytest.raises(NotFound):
            store.get(job.id, owner)
    assert store.list("ann", None, 10, "asc") == ([mine], False)
    assert store.list("", None, 10, "asc") == ([nobodys], False)
    with pytest.raises(NotFound):
        store.list("ann", other.id, 10, "asc")


def test_an_id_is_there_once(store: JobStore) -> None:
    job = store.add(new_job())
    with pytest.raises(StoreError):
        store.add(replace(job, model="another"))
    assert store.get(job.id) == job


# Lists


@pytest.mark.slow
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_make_the_whole_list(store: JobStore, order: Literal["asc", "desc"], limit: int) -> None:
    chance = random.Random(limit)
    everything = [
        store.add(new_job(owner=chance.choice(["ann", "bob"]), created_at=float(chance.randrange(6))))
        for _ in range(24)
    ]
    everything.sort(key=lambda job: (job.created_at, job.id), reverse=order == "desc")
    for owner in (None, "ann"):
        expected = [job for job in everything if owner in (None, job.owner)]
        seen: list[StoredJob] = []
        has_more = True
        while has_more:
            page, has_more = store.list(owner, seen[-1].id if seen else None, limit, order)
            assert len(page) == limit or not has_more
            seen += page
        assert seen == expected


def test_a_list_of_one_status(store: JobStore) -> None:
    waiting, ended = store.add(new_job()), store.add(new_job())
    store.finish(ended.id, "failed", 1.0, None)
    assert store.list(None, None, 10, "asc", "queued") == ([waiting], False)
    assert [job.id for job in store.list(None, None, 10, "asc", "failed")[0]] == [ended.id]
    assert store.list(None, None, 10, "asc", "completed") == ([], False)


def test_a_page_goes_on_after_a_job_that_came_meanwhile(store: JobStore) -> None:
    jobs = [store.add(new_job(created_at=float(when))) for when in range(4)]
    page, _ = store.list(None, None, 2, "desc")
    assert page == [jobs[3], jobs[2]]
    store.add(new_job(created_at=9.0))
    assert store.list(None, page[-1].id, 2, "desc") == ([jobs[1], jobs[0]], False)


def test_what_is_not_over_is_gone_on_with_in_order_of_arrival(store: JobStore) -> None:
    jobs = [store.add(new_job(created_at=float(when))) for when in (5, 3, 4, 1, 2)]
    store.mark(jobs[2].id, status="in_progress")
    store.finish(jobs[1].id, "completed", 6.0, None)
    store.finish(jobs[3].id, "failed", 6.0, None)
    assert [job.id for job in store.unfinished()] == [jobs[4].id, jobs[2].id, jobs[0].id]


# Changes


def test_a_mark_changes_only_what_it_names(store: JobStore) -> None:
    job, other = store.add(new_job()), store.add(new_job())
    store.mark(job.id, progress=7)
    assert store.get(job.id) == replace(job, progress=7)
    store.mark(job.id, status="in_progress", started_at=2.0)
    store.mark(job.id, started_at=None, deaths=1)
    store.mark(job.id)
    assert store.get(job.id) == replace(job, progress=7, status="in_progress", deaths=1)
    store.mark("video_unknown", progress=1)
    assert store.get(other.id) == other


def test_a_finished_job_is_never_touched_again(store: JobStore) -> None:
    job = store.add(new_job())
    assert store.finish(job.id, "completed", 5.0, 10.0, report=b"report", output_bytes=7)
    ended = store.get(job.id)
    assert ended.progress == 100 and ended.status == "completed"
    store.mark(job.id, status="in_progress", progress=1, deaths=1, layout="u9r9", started_at=1.0)
    assert not store.finish(job.id, "failed", 6.0, None, VideoError("cancelled", "cancelled"), b"other", 8)
    assert store.get(job.id) == ended
    assert store.report(job.id) == b"report"


def test_one_terminal_state_whoever_is_first(store: JobStore) -> None:
    """A completion, a cancel and a late mark at the same moment, many times."""
    cancelled = VideoError("cancelled", "cancelled")
    jobs = [store.add(new_job()) for _ in range(NUM_RACES)]
    barrier = threading.Barrier(3)
    wins: dict[str, list[bool]] = {"completed": [], "failed": []}

    def complete() -> None:
        for job in jobs:
            barrier.wait()
            wins["completed"].append(store.finish(job.id, "completed", 5.0, None, report=b"r", output_bytes=1))

    def cancel() -> None:
        for job in jobs:
            barrier.wait()
            wins["failed"].append(store.finish(job.id, "failed", 6.0, None, cancelled))

    def mark() -> None:
        for job in jobs:
            barrier.wait()
            store.mark(job.id, status="in_progress", progress=99)

    at_once(complete, cancel, mark)
    for job, completed, failed in zip(jobs, wins["completed"], wins["failed"], strict=True):
        assert completed != failed
        ended = store.get(job.id)
        if completed:
            assert (ended.status, ended.completed_at, ended.error, ended.output_bytes) == ("completed", 5.0, None, 1)
            assert ended.progress == 100 and store.report(job.id) == b"r"
        else:
            assert (ended.status, ended.completed_at, ended.error, ended.output_bytes) == ("failed", 6.0, cancelled, 0)
            assert store.report(job.id) is None
    assert store.unfinished() == []


def test_what_is_deleted_is_gone(store: JobStore) -> None:
    job, other = store.add(new_job()), store.add(new_job())
    store.finish(job.id, "completed", 5.0, 10.0, report=b"report", output_bytes=7)
    assert store.delete(job.id)
    assert not store.delete(job.id)
    with pytest.raises(NotFound):
        store.get(job.id)
    assert store.report(job.id) is None
    assert not store.finish(job.id, "failed", 6.0, None)
    assert store.list(None, None, 10, "asc") == ([other], False)
    assert store.total_output_bytes() == 0


# What is kept for how long


def test_what_has_expired_and_what_takes_room(store: JobStore) -> None:
    assert (store.total_output_bytes(), store.oldest_finished(), store.expired(1e12)) == (0, [], [])
    assert store.count_by_status() == {"queued": 0, "in_progress": 0, "completed": 0, "failed": 0}
    ends = {"late": (9.0, 90.0, 2**40), "early": (3.0, 80.0, 5), "for ever": (1.0, None, 6), "empty": (2.0, 70.0, 0)}
    jobs = {name: store.add(new_job()) for name in [*ends, "waiting", "running"]}
    store.mark(jobs["running"].id, status="in_progress")
    for name, (completed_at, expires_at, output_bytes) in ends.items():
        status: Literal["completed", "failed"] = "completed" if output_bytes else "failed"
        store.finish(jobs[name].id, status, completed_at, expires_at, output_bytes=output_bytes)

    def names(found: list[StoredJob]) -> list[str]:
        return [name for job in found for name in jobs if jobs[name].id == job.id]

    assert names(store.expired(69.9)) == []
    assert names(store.expired(80.0)) == ["empty", "early"]
    assert names(store.expired(1e12)) == ["empty", "early", "late"]
    assert names(store.expired(1e12, limit=1)) == ["empty"]
    assert names(store.oldest_finished()) == ["for ever", "early", "late"]
    assert names(store.oldest_finished(limit=2)) == ["for ever", "early"]
    assert store.total_output_bytes() == 2**40 + 11
    assert store.count_by_status() == {"queued": 1, "in_progress": 1, "completed": 3, "failed": 1}
