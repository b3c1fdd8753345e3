"""What an exchange of a GPU promises of its order, with streams that know what comes before what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ringlight.residency import exchange
from ringlight.residency.exchange import CudaExchange

DEVICE = torch.device("cuda:0")
HERE = SimpleNamespace(nbytes=24)


class Event:
    """A moment of a stream, with all that has come before it."""

    def __init__(self, before: Counter[int] | None = None, enable_timing: bool = False) -> None:
        self.before = Counter(before)

    def record(self, stream: Stream) -> None:
        self.before = Counter(stream.before)

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 250.0


class Stream:
    """Counts what is put on it, and what it has waited for."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.before: Counter[int] = Counter()

    def put(self) -> Operation:
        """Something that runs here, behind all so far."""
        self.before[id(self)] += 1
        return Operation(self, Event(self.before))

    def record_event(self) -> Event:
        return Event(self.before)

    def wait_event(self, event: Event) -> None:
        self.before |= event.before

    def wait_stream(self, other: Stream) -> None:
        self.before |= other.before

    def synchronize(self) -> None: ...


class Operation:
    """What runs on a stream."""

    def __init__(self, stream: Stream, event: Event) -> None:
        self._stream, self._event = stream, event

    def is_behind(self, other: Operation) -> bool:
        key = id(other._stream)
        return self._event.before[key] >= other._event.before[key]


class Copied:
    """A tensor that is copied to: on which stream, and when."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.operation: Operation | None = None

    def copy_(self, here: Any, non_blocking: bool) -> None:
        assert non_blocking
        self.operation = self._card.now.put()


class Card:
    """The streams of a device, one of which is the current one."""

    def __init__(self) -> None:
        self.computing = self.now = Stream()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    cuda = SimpleNamespace(Stream=Stream, Event=Event, stream=made.stream, current_stream=lambda device: made.now)
    monkeypatch.setattr(exchange.torch, "cuda", cuda)
    return made


def bring(card: Card, way: CudaExchange) -> tuple[Operation, object]:
    there = Copied(card)
    arrival = way.bring([(there, HERE)])  # type: ignore[list-item]
    assert there.operation is not None
    return there.operation, arrival


def take(card: Card, way: CudaExchange) -> Operation:
    there = Copied(card)
    way.take([(there, HERE)])  # type: ignore[list-item]
    assert there.operation is not None
    return there.operation


def test_what_is_brought_comes_behind_what_was_computed_and_taken(card: Card) -> None:
    way = CudaExchange(DEVICE)
    computed = card.computing.put()
    taken = take(card, way)
    later = card.computing.put()
    brought, arrival = bring(card, way)
    assert taken.is_behind(computed)
    assert not taken.is_behind(later), "it goes on beside what is computed then"
    assert all(brought.is_behind(each) for each in (computed, taken, later))
    beside = card.computing.put()
    assert not beside.is_behind(brought)
    assert not beside.is_behind(taken)
    way.wait(arrival)
    behind = card.computing.put()
    assert behind.is_behind(brought)
    assert not brought.is_behind(beside)


def test_without_copies_it_is_a_place_in_the_order(card: Card) -> None:
    way = CudaExchange(DEVICE)
    taken = take(card, way)
    way.wait(way.bring([]))
    assert card.computing.put().is_behind(taken)


def test_what_is_settled_is_behind_us(card: Card) -> None:
    way = CudaExchange(DEVICE)
    taken, (brought, _) = take(card, way), bring(card, way)
    late = take(card, way)
    way.settle()
    behind = card.computing.put()
    assert all(behind.is_behind(each) for each in (taken, brought, late))


def test_memory_stays_until_more_is_asked_for(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    closed: list[int] = []

    class Memory:
        def __init__(self, num_bytes: int, device: torch.device) -> None:
            made.append(num_bytes)
            self.bytes: Tensor = torch.zeros(num_bytes, dtype=torch.uint8)

        def close(self) -> None:
            closed.append(len(self.bytes))

    monkeypatch.setattr(exchange, "PinnedMemory", Memory)
    way = CudaExchange(DEVICE)
    for size in (100, 40, 100, 120):
        assert len(way.host_room(size)) == size
    assert (made, closed) == ([100, 120], [100])


def test_what_has_come_is_counted_once(card: Card) -> None:
    way = CudaExchange(DEVICE)
    for _ in range(2):
        way.wait(bring(card, way)[1])
    take(card, way)
    assert way.moved() == (48, 0.5)
    assert way.moved() == (0, 0.0)
