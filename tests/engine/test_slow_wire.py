"""A slow connection on which files travel: all else goes between their parts, of which it waits for few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringlight import RequestLimits
from ringlight.core import messages
from ringlight.core.courier import MOST_ON_THEIR_WAY
from ringlight.core.errors import Cancelled, InvalidRequest
from ringlight.engine.job_state import PAUSED
from ringlight.engine.jobs import Job
from tests.engine.apart import Apart, config_of, ranks_apart
from tests.engine.processes import wait_until
from tests.engine.slow_wire import HeardReplica, SlowLauncher

pytestmark = pytest.mark.slow

PART_BYTES = 2**13
PROMPT = "asked 0 step 1"  # there it waits
FILM = {"width": 384, "height": 256, "num_frames": 17, "num_inference_steps": 5}
STATE_BYTES = 4 * 48 * 5 * 16 * 24  # before the first step: latents alone


class Slow:
    """Ranks apart, behind valves."""

    def __init__(self, apart: Apart, replica: HeardReplica, wire: SlowLauncher) -> None:
        self.apart, self.replica, self.wire = apart, replica, wire

    @property
    def parts(self) -> list[messages.FilePart]:
        """Those that have come."""
        return [message for message in self.replica.heard if isinstance(message, messages.FilePart)]

    def until(self, is_so: Callable[[], bool]) -> None:
        self.wire.let_pass(PART_BYTES // 4, is_so)

    def parts_before(self, name: str) -> int:
        """Wait until the rank has sent a message of this name, of which nothing comes through. Returns how many parts
        it has sent before it that have not come through either."""
        wait_until(lambda: name.encode() in self.wire.queued())
        queued = self.wire.queued()
        return queued[: queued.index(name.encode())].count(b"FilePart")

    def with_a_state_on_its_way(self) -> Job:
        """A job that waits until it is asked to leave, while its first state comes slowly, of which there is much.
        From here on nothing comes from the rank."""
        job = self.apart.submit(PROMPT, **FILM)
        self.until(lambda: any(part.job_id == job.id for part in self.parts))
        self.wire.from_rank.allow(0)
        self.wire.to_rank.allow(None)
        assert self.num_to_come(job) > 3 * MOST_ON_THEIR_WAY
        return job

    def num_to_come(self, job: Job) -> int:
        """How many parts are still to come of the state that is on its way."""
        last = [part for part in self.parts if part.job_id == job.id][-1]
        return 0 if last.checksum else STATE_BYTES // PART_BYTES - last.offset // PART_BYTES


@contextmanager
def slow_ranks(tiny: Path, folder: Path, part_bytes: int) -> Iterator[Slow]:
    config = config_of(tiny, 1)
    wire = SlowLauncher(config, RequestLimits(), scratch=str(folder / "scratch"))
    replica = HeardReplica(config, wire)
    with ranks_apart(tiny, folder, replica=replica, part_bytes=part_bytes) as apart:
        try:
            yield Slow(apart, replica, wire)
        finally:
            wire.open()


@pytest.fixture(scope="module")
def slow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    with slow_ranks(tiny, tmp_path_factory.mktemp("slow"), PART_BYTES) as slow:
        yield slow


def test_an_answer_and_a_cancel_go_between_the_parts_of_a_state(slow: Slow) -> None:
    job = slow.with_a_state_on_its_way()
    slow.replica.ping()
    assert slow.parts_before("Pong") <= MOST_ON_THEIR_WAY
    slow.apart.engine.cancel(job)
    assert slow.parts_before("JobFailed") <= MOST_ON_THEIR_WAY
    slow.until(lambda: job.state.is_over)
    with pytest.raises(Cancelled):
        job.wait(60)
    assert slow.num_to_come(job) > 0  # and they never do
    assert (slow.apart.files_of(job), slow.apart.left()) == ([], [])


def test_a_pause_goes_between_them_and_files_travel_both_ways(slow: Slow, tmp_path: Path) -> None:
    """A film makes way while its state is on its way, for one that brings a large file with it."""
    film = slow.with_a_state_on_its_way()
    (tmp_path / "no video.mp4").write_bytes(bytes(40 * PART_BYTES))
    other = slow.apart.submit(name="film.mp4", continues=str(tmp_path / "no video.mp4"), priority=1)
    assert slow.parts_before("JobPaused") <= MOST_ON_THEIR_WAY
    slow.until(lambda: film.state.stage == PAUSED)
    slow.replica.ping()
    slow.until(lambda: other.state.is_over)
    with pytest.raises(InvalidRequest, match="not a video"):
        other.wait(60)
    slow.until(lambda: film.state.is_over)
    paused, *_ = (message.step for message in slow.replica.heard if isinstance(message, messages.JobPaused))
    saved = [message.step for message in slow.replica.heard if isinstance(message, messages.StateSaved)]
    assert saved[:2] == [0, paused]  # the one that was on its way, and the one of the pause
    slow.wire.open()
    assert slow.apart.made(film) == slow.apart.made(slow.apart.submit(PROMPT, keeps=False, **FILM))
    assert slow.apart.left() == []


def test_a_paused_film_that_is_cancelled_brings_no_more_of_its_state(slow: Slow) -> None:
    film = slow.with_a_state_on_its_way()
    other = slow.apart.submit(priority=1)
    assert slow.parts_before("JobPaused") <= MOST_ON_THEIR_WAY
    slow.until(lambda: film.state.stage == PAUSED)
    slow.wire.from_rank.allow(0)
    assert slow.num_to_come(film) > MOST_ON_THEIR_WAY
    slow.apart.engine.cancel(film)
    with pytest.raises(Cancelled):
        film.wait(60)  # nothing comes from the rank meanwhile
    slow.until(lambda: other.state.is_over)
    other.wait(60)
    slow.wire.open()
    slow.apart.submit().wait(60)  # by then the rank has forgotten it
    assert slow.num_to_come(film) > 0
    assert (slow.apart.files_of(film), slow.apart.left()) == ([], [])


def test_a_rank_that_cannot_be_heard_still_hears(tiny: Path, tmp_path: Path) -> None:
    """Parts fill the socket, so that nothing else goes in; were an answer waited for, nobody would read any more."""
    with slow_ranks(tiny, tmp_path, part_bytes=STATE_BYTES // 2) as slow, ThreadPoolExecutor() as aside:
        slow.wire.from_rank.allow(0)
        job = slow.apart.submit(PROMPT, **FILM)
        wait_until(lambda: len(slow.wire.queued()) > STATE_BYTES // 4)
        slow.replica.ping()
        much = "of another job" * 2**20  # more than sockets hold
        try:
            aside.submit(slow.replica.cancel, much).result(30)
        finally:
            slow.wire.open()
        slow.apart.engine.cancel(job)
        with pytest.raises(Cancelled):
            job.wait(60)
