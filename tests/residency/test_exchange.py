"""What an exchange of a GPU promises of its order, with streams that know what comes before what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ringlight.residency import exchange
from ringlight.residency.exchange import CudaExchange
from tests.residency.streams import HERE, Card, Copied, Operation

DEVICE = torch.device("cuda:0")
MANY = 2**40


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
    way = CudaExchange(DEVICE, MANY)
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
    way = CudaExchange(DEVICE, MANY)
    taken = take(card, way)
    way.wait(way.bring([]))
    assert card.computing.put().is_behind(taken)


def test_what_is_settled_is_behind_us(card: Card) -> None:
    way = CudaExchange(DEVICE, MANY)
    taken, (brought, _) = take(card, way), bring(card, way)
    late = take(card, way)
    way.settle()
    behind = card.computing.put()
    assert all(behind.is_behind(each) for each in (taken, brought, late))


def test_memory_stays_until_more_is_asked_for(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    closed: list[int] = []

    class Memory:
        def __init__(self, num_bytes: int, device: torch.device, most_bytes: int) -> None:
            made.append(num_bytes)
            self.bytes: Tensor = torch.zeros(num_bytes, dtype=torch.uint8)

        def close(self) -> None:
            closed.append(len(self.bytes))

    monkeypatch.setattr(exchange, "PinnedMemory", Memory)
    way = CudaExchange(DEVICE, MANY)
    for size in (100, 40, 100, 120):
        assert len(way.host_room(size)) == size
    assert (made, closed) == ([100, 120], [100])


def test_what_has_come_is_counted_once(card: Card) -> None:
    way = CudaExchange(DEVICE, MANY)
    for _ in range(2):
        way.wait(bring(card, way)[1])
    take(card, way)
    assert way.moved() == (48, 0.5)
    assert way.moved() == (0, 0.0)
