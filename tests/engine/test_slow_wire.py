"""A slow connection on which files travel: all else goes between their parts, counted in parts and not in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringlight import RequestLimits
from ringlight.core import messages
from ringlight.core.courier import MOST_ON_THEIR_WAY
from ringlight.core.errors import Cancelled, InvalidRequest
from ringlight.engine.jobs import Job
from tests.engine.apart import Apart, config_of, ranks_apart
from tests.engine.slow_wire import HeardReplica, SlowLauncher

pytestmark = pytest.mark.slow

PART_BYTES = 2**13
PROMPT = "asked 0 step 1"  # there it waits
FILM = {"width": 384, "height": 256, "num_frames": 17, "num_inference_steps": 5}
STATE_BYTES = 4 * 48 * 5 * 16 * 24  # before the first step: latents alone
MOST_BETWEEN = MOST_ON_THEIR_WAY + 2  # those on their way, and what is sent while the other waits for its turn


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

    def hears(self, kind: type) -> int:
        """Wait for the next message of a kind. Returns how many parts come before it."""
        begin = len(self.replica.heard)

        def place() -> int | None:
            return next((at for at, each in enumerate(self.replica.heard[begin:]) if isinstance(each, kind)), None)

        self.until(lambda: place() is not None)
        return sum(isinstance(message, messages.FilePart) for message in self.replica.heard[begin:][: place()])

    def with_a_state_on_its_way(self) -> Job:
        """A job that waits until it is asked to leave, while its first state comes slowly, of which there is much."""
        for valve in (self.wire.to_rank, self.wire.from_rank):
            valve.allow(0)
        job = self.apart.submit(PROMPT, **FILM)
        self.until(lambda: any(part.job_id == job.id for part in self.parts))
        assert self.num_to_come(job) > 3 * MOST_BETWEEN
        return job

    def num_to_come(self, job: Job) -> int:
        """How many parts are still to come of the state that is on its way."""
        last = [part for part in self.parts if part.job_id == job.id][-1]
        return 0 if last.checksum else STATE_BYTES // PART_BYTES - last.offset // PART_BYTES


@pytest.fixture(scope="module")
def slow(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    folder, config = tmp_path_factory.mktemp("slow"), config_of(tiny, 1)
    wire = SlowLauncher(config, RequestLimits(), scratch=str(folder / "scratch"))
    replica = HeardReplica(config, wire)
    with ranks_apart(tiny, folder, replica=replica, part_bytes=PART_BYTES) as apart:
        yield Slow(apart, replica, wire)


@pytest.fixture(autouse=True)
def _open_again(slow: Slow) -> Iterator[None]:
    yield
    for valve in (slow.wire.to_rank, slow.wire.from_rank):
        valve.allow(None)


def test_an_answer_and_a_cancel_go_between_the_parts_of_a_state(slow: Slow) -> None:
    job = slow.with_a_state_on_its_way()
    slow.replica.ping()
    assert slow.hears(messages.Pong) <= MOST_BETWEEN
    assert slow.num_to_come(job) > 0
    slow.apart.engine.cancel(job)
    assert slow.hears(messages.JobFailed) <= MOST_BETWEEN
    with pytest.raises(Cancelled):
        job.wait(60)
    assert slow.num_to_come(job) > 0  # and they never do
    assert (slow.apart.files_of(job), slow.apart.left()) == ([], [])


def test_a_pause_goes_between_and_files_travel_both_ways(slow: Slow, tmp_path: Path) -> None:
    """A film makes way while its state is on its way, for one that brings a large file with it."""
    film = slow.with_a_state_on_its_way()
    (tmp_path / "no video.mp4").write_bytes(bytes(40 * PART_BYTES))
    other = slow.apart.submit(name="film.mp4", continues=str(tmp_path / "no video.mp4"), priority=1)
    assert slow.hears(messages.JobPaused) <= MOST_BETWEEN
    assert slow.num_to_come(film) > 0
    slow.replica.ping()
    assert slow.hears(messages.Pong) <= MOST_BETWEEN
    slow.until(lambda: other.state.is_over)
    with pytest.raises(InvalidRequest, match="not a video"):
        other.wait(60)
    slow.until(lambda: film.state.is_over)
    for valve in (slow.wire.to_rank, slow.wire.from_rank):
        valve.allow(None)
    assert slow.apart.made(film) == slow.apart.made(slow.apart.submit(PROMPT, keeps=False, **FILM))
    assert slow.apart.left() == []
