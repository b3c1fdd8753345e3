"""Which requests of batches enter the queue, and when. No rank is started: the engine takes jobs and makes none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.config import EngineConfig
from ringlight.core.errors import Cancelled, NotFound, StoreError
from ringlight.core.settings import ServeSettings
from ringlight.engine.job_state import JobState
from ringlight.engine.jobs import Job
from ringlight.server.collection.batches import MOST_AHEAD, Batches
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import Draft
from tests.core.clocks import SetClock

HOUR = 3600.0


class Line:
    """In the place of the engine's `submit`: it takes jobs in, and tells of none."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def submit(self, request: Any, output: str, on_change: Any, layout: Any, submission: Any, accept: Any) -> Job:
        job = Job(submission.job_id, request, layout, output, on_change, submission, state=submission.state)
        accept(job)
        self.jobs[job.id] = job
        return job


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def batches(tiny: Path, tmp_path: Path, clock: SetClock, line: Line) -> Iterator[Batches]:
    """Batches whose videos are never made, on a server that gives each an hour."""
    settings = ServeSettings(data_dir=str(tmp_path), job_timeout=HOUR)
    videos = Videos(settings, EngineConfig(model_path=str(tiny)), clock=clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videos.engine, "submit", line.submit)
        yield Batches(videos)
    videos.store.close()
    videos.folder.close()


def add(batches: Batches, name: str, number: int, retry_failed: bool = False, **fields: Any) -> list[str]:
    """The ids of a batch's videos."""
    request = batches.videos.complete("a boat", width=64, height=64, num_frames=5)
    drafts = {f"{key}": Draft(request=request, **fields) for key in range(number)}
    return [row.job_id for row in batches.add(name, drafts, "", retry_failed).rows]


def test_a_few_of_each_priority_enter_and_more_as_these_are_computed(batches: Batches, line: Line) -> None:
    low = add(batches, "low", 2 * MOST_AHEAD, priority=-5)
    assert batches.feed() and list(line.jobs) == low[:MOST_AHEAD]
    assert batches.feed() and len(line.jobs) == MOST_AHEAD, "none twice"
    assert not any(job.submission.counted for job in line.jobs.values())
    high = add(batches, "high", 1)
    assert batches.feed() and list(line.jobs) == [*low[:MOST_AHEAD], *high]
    line.jobs[low[0]]._state = JobState(status="in_progress", stage="Output")
    line.jobs[high[0]]._state = JobState(status="in_progress", stage="Output")
    assert batches.feed() and list(line.jobs)[-1] == low[MOST_AHEAD] and len(line.jobs) == MOST_AHEAD + 2


def test_what_has_a_deadline_enters_at_once_and_keeps_it(batches: Batches, line: Line, clock: SetClock) -> None:
    add(batches, "plain", MOST_AHEAD)
    batches.feed()
    due = add(batches, "due", 3, timeout_seconds=60.0)
    clock.goes_on(5.0)
    assert not batches.feed() and list(line.jobs)[-3:] == due
    submission = line.jobs[due[0]].submission
    assert submission.timeout_seconds == pytest.approx(60.0) and submission.spent_seconds == pytest.approx(5.0)


def test_what_the_operator_gives_counts_from_the_queue(batches: Batches, line: Line, clock: SetClock) -> None:
    (video,) = add(batches, "one", 1)
    assert batches.videos.store.get(video).deadline_at is None
    clock.goes_on(5 * HOUR)
    batches.feed()
    submission = line.jobs[video].submission
    assert submission.timeout_seconds is not None
    assert submission.timeout_seconds - submission.spent_seconds == pytest.approx(HOUR)


def test_what_was_cancelled_or_deleted_outside_never_enters(batches: Batches, line: Line) -> None:
    cancelled, deleted, left = add(batches, "three", 3)
    assert batches.videos.cancel(cancelled, "").status == "failed"
    batches.videos.delete(deleted, "")
    batches.feed()
    assert list(line.jobs) == [left]
    assert [row.status for row in batches.list(None, None, 1, "asc")[0][0].rows] == ["failed", None, "queued"]


def test_what_waits_is_not_taken_for_forgotten(batches: Batches, line: Line, clock: SetClock) -> None:
    add(batches, "low", MOST_AHEAD + 1)
    for _ in range(3):
        batches.videos.retention.sweep()
        clock.goes_on(HOUR / 4)
    assert line.jobs == {} and batches.videos.store.unfinished() == []


def test_a_draining_server_queues_nothing(batches: Batches, line: Line) -> None:
    add(batches, "low", 1)
    batches.videos.is_draining = True
    batches.feed()
    assert line.jobs == {}


def test_what_cannot_be_made_any_more_fails_and_the_next_one_enters(
    batches: Batches, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add(batches, "two", 2)

    def submit(*about: Any, **more: Any) -> Job:
        if about[4].job_id == first:
            raise Cancelled("its LoRA is gone")
        return line.submit(*about, **more)

    monkeypatch.setattr(batches.videos.engine, "submit", submit)
    batches.feed()
    assert list(line.jobs) == [second]
    assert batches.videos.get(first, "").status == "failed"


def test_what_could_not_be_stored_leaves_no_pictures(
    batches: Batches, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = batches.videos.complete("a boat", width=64, height=64, num_frames=5, image=photograph.read_bytes())
    folders = tmp_path / "videos"
    kept = batches.videos.folder.of

    def full(*about: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ringlight.server.collection.folder.write_out", full)
        with pytest.raises(StoreError, match="No space left"):
            batches.add("full", {"a": Draft(request=request)}, "")
    assert list(folders.iterdir()) == []
    assert batches.list(None, None, 10, "asc") == ([], False)
    view = batches.add("full", {"a": Draft(request=request)}, "")
    assert kept(view.rows[0].job_id).image.read_bytes() == photograph.read_bytes()
    batches.delete(view.stored.id, "")
    assert list(folders.iterdir()) == []
    with pytest.raises(NotFound):
        batches.get(view.stored.id, "")
