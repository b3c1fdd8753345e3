"""The promises of a server, each put to the test a few times; `benchmarks/chaos.py` does it often.

P1 no acknowledged job is lost. P2 one result per job, repeated at most twice, the same pixels. P3 nobody's failure is
another's. P4 cancel frees the ranks. P5 nothing waits for a dead or hung rank. P6 all is bounded by settings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import bounds, cancels, crowds, disks, kills, pauses
from tests.server.chaos import OPTIONS, Alone, OnServer
from tests.server.films import Originals
from tests.server.served import Served, serve

pytestmark = pytest.mark.slow

SEED = 20


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Originals]]:
    """A server of two ranks that every test leaves as it was."""
    with serve(tmp_path_factory.mktemp("pair"), tiny, *OPTIONS) as served:
        yield served, Originals(served)


@pytest.mark.parametrize(
    ("scenario", "count"),
    [
        (crowds.create_at_once, 60),
        (crowds.add_up_overhead, 2),
        (crowds.poll_and_submit, 1),
        (cancels.cancel_at_points, 1),
        (cancels.race_with_completion, 5),
        (pauses.race_with_pause, 4),
        (bounds.meet_deadlines, 1),
        (bounds.keep_priorities, 6),
        (bounds.refuse_a_second_server, 1),
        (disks.lock_the_store, 1),
        (kills.kill_ranks, 1),
        (kills.stop_busy_ranks, 1),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_on_a_server(pair: tuple[Served, Originals], scenario: OnServer, count: int) -> None:
    assert scenario(*pair, count, random.Random(SEED))


@pytest.mark.parametrize(
    ("scenario", "count"),
    [
        (kills.kill_the_server, 1),
        (pauses.kill_while_paused, 1),
        (disks.damage_the_store, 2),
        (bounds.fail_in_ranks, 1),
        (bounds.forget_by_age, 2),
        (bounds.forget_by_bytes, 4),
        (bounds.forget_strangers, 1),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_alone(tmp_path: Path, tiny: Path, scenario: Alone, count: int) -> None:
    assert scenario(tmp_path, tiny, count, random.Random(SEED))


def test_a_full_disk(tmp_path: Path, tiny: Path) -> None:
    try:
        assert disks.fill_the_disk(tmp_path, tiny, 1, random.Random(SEED))
    except disks.NoSmallDisk as reason:
        pytest.skip(f"no small disk can be made here: {reason}")
