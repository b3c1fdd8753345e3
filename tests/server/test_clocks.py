"""A wall clock that is set, forward or back: nothing is deleted before its time, and nothing counts twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlight.core.config import EngineConfig
from ringlight.core.settings import ServeSettings
from ringlight.engine.jobs import Submission
from ringlight.server.collection.folder import STRANGE_SECONDS, DataFolder
from ringlight.server.collection.retention import GRACE_SECONDS, SWEEP_SECONDS, UNANSWERED_SECONDS, Retention
from ringlight.server.collection.store import Idempotency, JobStore, StoredJob
from ringlight.server.collection.videos import Videos
from tests.core.clocks import SetClock
from tests.server.stores import new_job
from tests.server.stores import postgres as postgres
from tests.server.stores import url as url

DAY = 86400.0
WEEK = 7 * DAY


class Server:
    """What of a server looks after its videos, from one start to the next, under a clock that tests set."""

    def __init__(self, url: str, folder: Path, clock: SetClock) -> None:
        self.clock = clock
        self.taken_up: list[str] = []
        self._url, self._path = url, str(folder)
        self.open()

    def open(self) -> None:
        self.folder = DataFolder.open(self._path)
        self.store = JobStore(self._url, clock=self.clock)
        self._retention = Retention(self.store, self.folder, 0, self._remove, self._take_up, self.clock)

    def close(self) -> None:
        self.store.close()
        self.folder.close()

    def finish(self, kept_seconds: float = WEEK) -> str:
        """A video that ends now; its id."""
        job = self.store.add(new_job(created_at=self.clock.wall()))
        ended_at = self.clock.wall()
        self.store.finish(job.id, "completed", ended_at, ended_at + kept_seconds)
        return job.id

    def runs(self, seconds: float) -> None:
        """So much time goes by, with a sweep at its beginning and its end."""
        self.sweep()
        self.clock.goes_on(seconds - SWEEP_SECONDS)
        self.sweep()
        self.clock.goes_on(SWEEP_SECONDS)
        self.sweep()

    def sweep(self) -> None:
        self._retention.sweep()

    @property
    def videos(self) -> set[str]:
        return {job.id for job in self.store.list(None, None, 100, "asc")[0]}

    def _remove(self, video_id: str) -> None:
        self.store.delete(video_id)

    def _take_up(self, stored: StoredJob) -> None:
        self.taken_up.append(stored.id)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def server(url: str, tmp_path: Path, clock: SetClock) -> Iterator[Server]:
    server = Server(url, tmp_path / "data", clock)
    yield server
    server.close()


def start_again(server: Server) -> None:
    """The next server on the same folder and database."""
    server.close()
    server.open()


def test_without_jumps_videos_go_when_they_say(server: Server, clock: SetClock) -> None:
    first = server.finish()
    server.runs(DAY)
    second = server.finish()
    server.runs(6 * DAY)
    assert server.videos == {second}, f"{first} has had its week"
    server.runs(DAY)
    assert server.videos == set()


@pytest.mark.parametrize("jump_seconds", [30 * DAY, 6.0, -6.0, -30 * DAY, -400 * DAY])
def test_a_clock_that_is_set_takes_no_videos_time_away(server: Server, clock: SetClock, jump_seconds: float) -> None:
    """In the field report: 30 days behind, then set right, and a video of some seconds is deleted for good."""
    early = server.finish()
    server.runs(5 * DAY)
    late = server.finish()
    server.runs(60.0)
    clock.is_set(jump_seconds)
    between = server.finish()  # before a sweep has seen it
    server.sweep()
    assert server.videos == {early, late, between}
    server.runs(DAY)
    assert server.videos == {early, late, between}, "each has time left"
    server.runs(2 * DAY)
    assert {late, between} <= server.videos
    server.runs(WEEK)
    if jump_seconds > 0:
        assert server.videos == set()
    for stored in server.store.list(None, None, 100, "asc")[0]:  # made under a clock that was ahead, or so it seems
        assert stored.expires_at is not None and stored.expires_at <= clock.wall() + WEEK


def test_a_clock_that_goes_wrong_and_is_set_right_again(server: Server, clock: SetClock) -> None:
    video = server.finish()
    server.runs(DAY)
    for jump_seconds in (30 * DAY, -30 * DAY, -3 * DAY, 3 * DAY):
        clock.is_set(jump_seconds)
        server.runs(60.0)
        assert server.videos == {video}
    server.runs(5 * DAY)
    assert server.videos == {video}


def test_a_store_that_fails_while_the_clock_is_set_is_told_of_it_later(
    server: Server, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = server.finish()
    server.runs(60.0)
    clock.is_set(30 * DAY)
    with monkeypatch.context() as broken:
        broken.setattr(server.store, "rebase", fail)
        with pytest.raises(RuntimeError, match="no disk"):
            server.sweep()
    server.runs(DAY)
    assert server.videos == {video}


def fail(*_: object) -> None:
    raise RuntimeError("no disk")


def test_what_expired_while_no_server_ran_has_an_hour_more(server: Server, clock: SetClock) -> None:
    """A long stop looks as a clock that is ahead: whoever set it wrong has that long to set it right."""
    video, short = server.finish(), server.finish(kept_seconds=60.0)
    clock.goes_on(30 * DAY)
    start_again(server)
    server.sweep()
    assert server.videos == {video, short}
    server.runs(60.0)
    assert server.videos == {video}, "one that was to be kept for a minute does not get an hour"
    clock.goes_on(GRACE_SECONDS / 2)
    start_again(server)
    server.sweep()
    clock.goes_on(GRACE_SECONDS / 2)
    server.sweep()
    assert server.videos == set(), "an hour, however often the server starts"


def test_a_start_with_a_clock_that_is_ahead_and_then_set_right(server: Server, clock: SetClock) -> None:
    video = server.finish()
    clock.is_set(30 * DAY)
    start_again(server)
    server.runs(600.0)
    clock.is_set(-30 * DAY)
    server.runs(6 * DAY)
    assert server.videos == {video}


def test_a_start_with_ends_that_lie_in_the_future(server: Server, clock: SetClock) -> None:
    clock.is_set(30 * DAY)
    video = server.finish()
    clock.is_set(-30 * DAY)
    for _ in range(3):
        start_again(server)
        server.runs(2 * DAY)
        assert server.videos == {video}
        (stored,) = server.store.list(None, None, 100, "asc")[0]
        assert stored.completed_at is not None and stored.completed_at <= clock.wall()
    server.runs(DAY)
    assert server.videos == set(), "a week after the start, and not 30 days later"


def test_jobs_keep_their_deadline_for_the_next_server(server: Server, clock: SetClock) -> None:
    job = server.store.add(new_job(created_at=clock.wall(), deadline_at=clock.wall() + 3000.0))
    server.runs(60.0)
    clock.is_set(30 * DAY)
    server.runs(60.0)
    deadline_at = server.store.get(job.id).deadline_at
    assert deadline_at is not None and deadline_at - clock.wall() == 2880.0


@pytest.mark.parametrize(("jump_seconds", "spent_seconds"), [(0.0, 60.0), (30 * DAY, 30 * DAY + 60), (-30 * DAY, 0.0)])
def test_between_two_servers_a_jobs_time_is_the_clocks(
    tiny: Path, tmp_path: Path, clock: SetClock, jump_seconds: float, spent_seconds: float
) -> None:
    """Nothing tells a clock that was set from a long stop; but a job never has more time than it was given."""
    settings, config = ServeSettings(data_dir=str(tmp_path)), EngineConfig(model_path=str(tiny))
    videos = Videos(settings, config, clock=clock)
    job = videos.store.add(new_job(created_at=clock.wall(), deadline_at=clock.wall() + 3000.0))
    clock.goes_on(60.0)
    clock.is_set(jump_seconds)
    given: list[Submission] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videos.engine, "submit", lambda *args, accept: given.append(args[-1]))
        videos.take_up(job)
    videos.store.close()
    videos.folder.close()
    (submission,) = given
    assert (submission.timeout_seconds, submission.spent_seconds) == (3000.0, spent_seconds)


@pytest.mark.parametrize("jump_seconds", [30 * DAY, -30 * DAY])
def test_a_call_that_is_about_to_be_answered_keeps_its_folder_and_its_job(
    server: Server, clock: SetClock, jump_seconds: float
) -> None:
    server.sweep()
    folder = server.folder.of("video_" + "1" * 32)
    folder.make()
    job = server.store.add(new_job(created_at=clock.wall()))
    clock.is_set(jump_seconds)
    server.sweep()
    clock.goes_on(min(STRANGE_SECONDS, UNANSWERED_SECONDS) - 1)
    server.sweep()
    assert folder.path.exists() and server.taken_up == []
    clock.goes_on(1)
    server.sweep()
    assert not folder.path.exists(), "nobody knew it for a minute"
    assert server.taken_up == [job.id]


@pytest.mark.parametrize("jump_seconds", [30 * DAY, -30 * DAY])
def test_the_same_call_again_is_a_retry_for_two_minutes_by_whatever_clock(
    server: Server, clock: SetClock, jump_seconds: float
) -> None:
    first, again = Idempotency("body:1", "1", 0.0), Idempotency("body:1", "1", 120.0)
    job = server.store.add(new_job(created_at=clock.wall()), first)
    clock.is_set(jump_seconds)
    assert server.store.find("", again) == job
    assert server.store.find("", first) is None, "no retry: somebody wants another one"
    clock.goes_on(119)
    assert server.store.find("", again) == job
    clock.goes_on(1)
    assert server.store.find("", again) is None
    start_again(server)
    assert server.store.find("", first) is None, "also where it was made in what is now the future"
    assert server.store.find("", again) is None
