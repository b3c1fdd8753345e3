"""Who is lost, as a rank tells that has just lost the connection to another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from torch._C._distributed_c10d import TCPStore

from ringlight.parallel.pulse import Pulse, beat_key
from ringlight.parallel.roster import Roster
from tests.quick import first_quick

WATCHDOG_SECONDS = 1.0
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, len(ADDRESSES), True, wait_for_workers=False)


@pytest.fixture
def pulse(store: TCPStore) -> Iterator[Pulse]:
    """Rank 0's, of three on machines of their own, which has heard of the others."""
    for rank in (1, 2):
        store.set(beat_key(rank), "0")
    made = Pulse(store, 0, Roster(ADDRESSES, 1), WATCHDOG_SECONDS, lambda loss, is_cause: None)
    made.start()
    deadline = time.monotonic() + 30
    while not made._heard and time.monotonic() < deadline:
        time.sleep(0.01)
    yield made
    made.stop()


def beating(store: TCPStore, rank: int, is_over: Callable[[int], bool]) -> threading.Thread:
    """A rank that beats as it should until that is over, told how often it has."""

    def beat() -> None:
        number = 0
        while not is_over(number):
            number += 1
            store.set(beat_key(rank), str(number))
            time.sleep(WATCHDOG_SECONDS / 10)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("last_beats", first_quick([1, 0, 3]))
def test_a_rank_that_is_gone_is_named_however_late_its_last_beat_is_heard(
    store: TCPStore, pulse: Pulse, last_beats: int
) -> None:
    stopped = threading.Event()
    alive = beating(store, 1, lambda number: stopped.is_set())
    dying = beating(store, 2, lambda number: number >= last_beats)
    loss = pulse.hear_cause()
    stopped.set()
    alive.join()
    dying.join()
    assert (loss.rank, loss.message) == (2, "node 2 (10.0.0.3) is lost: its rank 2 no longer answers")


@pytest.mark.slow
def test_where_all_go_on_it_is_their_network(store: TCPStore, pulse: Pulse) -> None:
    stopped = threading.Event()
    threads = [beating(store, rank, lambda number: stopped.is_set()) for rank in (1, 2)]
    loss = pulse.hear_cause()
    stopped.set()
    for thread in threads:
        thread.join()
    assert loss.rank is None and "see to their network" in loss.message
