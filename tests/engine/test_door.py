"""The door that ranks come to over the network: who is let in, who is not, and that nobody keeps others out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from ringlight.core.errors import WorkerError
from ringlight.engine.launch.ray import door as doors
from ringlight.engine.launch.ray.door import CLAIM_BYTES, RankDoor, enter
from ringlight.engine.network import keep_watch

WATCHDOG_SECONDS = 4.0


class Enough(Exception):
    """What was waited for has happened."""


@pytest.fixture
def door() -> Iterator[RankDoor]:
    with contextlib.closing(RankDoor("127.0.0.1", 2, WATCHDOG_SECONDS)) as door:
        yield door


def go_on() -> None:
    pass


def test_ranks_are_told_apart_and_heard_both_ways(door: RankDoor) -> None:
    with ThreadPoolExecutor(2) as pool:
        entered = [pool.submit(enter, door.address, rank, WATCHDOG_SECONDS) for rank in (1, 0)]
        admitted = door.admit(go_on)
        one, zero = (each.result() for each in entered)
    assert [*sorted(admitted)] == [0, 1] and door.num_refused == 0
    for rank, theirs in enumerate((zero, one)):
        with theirs, admitted[rank] as ours:
            theirs.send_bytes(b"ready %d" % rank)
            assert ours.recv_bytes() == b"ready %d" % rank
            ours.send_bytes(b"x" * 2**20)
            assert len(theirs.recv_bytes()) == 2**20


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n" * 9, b"\0" * CLAIM_BYTES], ids=["none", "http", "zeros"]
)
def test_strangers_are_refused_and_counted(door: RankDoor, said: bytes) -> None:
    def look() -> None:
        if door.num_refused:
            raise Enough

    with socket.create_connection((door.address.host, door.address.port)) as stranger:
        stranger.sendall(said)
        if not said:
            stranger.shutdown(socket.SHUT_WR)
        with pytest.raises(Enough):
            door.admit(look)
    assert door.num_refused == 1


def test_a_silent_stranger_keeps_nobody_out_and_has_to_go(door: RankDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE_SECONDS", 0.5)

    def look() -> None:
        if door.num_refused == 3:
            raise Enough

    with contextlib.ExitStack() as strangers, ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            strangers.enter_context(socket.create_connection((door.address.host, door.address.port)))
        entered = [pool.submit(enter, door.address, rank, WATCHDOG_SECONDS) for rank in range(2)]
        for connection in (*door.admit(go_on).values(), *(each.result() for each in entered)):
            connection.close()
        with pytest.raises(Enough):
            door.admit(look)


def test_another_token_opens_nothing(door: RankDoor) -> None:
    def look() -> None:
        if door.num_refused == 2:
            raise Enough

    wrong = msgspec.structs.replace(door.address, token=bytes(32))
    with ThreadPoolExecutor(2) as pool:
        entering = [pool.submit(enter, wrong, rank, WATCHDOG_SECONDS) for rank in range(2)]
        with pytest.raises(Enough):
            door.admit(look)
        for each in entering:
            with pytest.raises(
                WorkerError, match=r"cannot reach its engine at 127\.0\.0\.1:\d+: the connection was closed"
            ):
                each.result()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_there_or_is_none_is_refused(door: RankDoor, rank: int) -> None:
    def look() -> None:
        if door.num_refused:
            raise Enough

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(enter, door.address, 0, WATCHDOG_SECONDS)
        with pytest.raises(Enough):
            door.admit(lambda: look_for(door, 0))
        first.result().close()
        second = pool.submit(enter, door.address, rank, WATCHDOG_SECONDS)
        with pytest.raises(Enough):
            door.admit(look)
        with pytest.raises(WorkerError, match="closed"):
            second.result()


def look_for(door: RankDoor, rank: int) -> None:
    if door.has_admitted(rank):
        raise Enough


def test_somebody_else_where_the_engine_was(door: RankDoor) -> None:
    """What answers must know the token too."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        other = msgspec.structs.replace(door.address, port=server.getsockname()[1])
        entering = pool.submit(enter, other, 0, WATCHDOG_SECONDS)
        stranger, _ = server.accept()
        with stranger:
            stranger.sendall(bytes(32))
            assert len(stranger.recv(CLAIM_BYTES)) == CLAIM_BYTES
            stranger.sendall(bytes(32))
            with pytest.raises(WorkerError, match="somebody else answers there"):
                entering.result()


def test_nobody_is_there_any_more(door: RankDoor) -> None:
    door.close()
    with pytest.raises(WorkerError, match=r"rank 1 cannot reach its engine at .* Connection refused"):
        enter(door.address, 1, WATCHDOG_SECONDS)


def test_a_connection_is_given_up_within_the_watchdogs_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        keep_watch(ours, 8.0)

        def option(name: int, level: int = socket.IPPROTO_TCP) -> int:
            return ours.getsockopt(level, name)

        probing = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPCNT) * option(socket.TCP_KEEPINTVL)
        assert option(socket.SO_KEEPALIVE, socket.SOL_SOCKET) and option(socket.TCP_NODELAY)
        assert (probing, option(socket.TCP_USER_TIMEOUT)) == (8, 8000)
