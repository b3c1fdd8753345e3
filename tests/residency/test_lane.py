"""What a GPU's lane promises of its order, with streams that know what comes before what."""

from __future__ import annotations

import torch

from ringlight.residency.lane import CudaLane
from tests.residency.streams import HERE, Card, Copied

DEVICE = torch.device("cuda:0")


def test_a_copy_comes_behind_the_last_use_of_its_room_and_beside_all_since(card: Card) -> None:
    way, there = CudaLane(DEVICE), Copied(card)
    last_use = card.computing.put()
    free = way.now()
    beside = card.computing.put()
    brought = way.bring(there, HERE, free)  # type: ignore[arg-type]
    copied = there.operation
    assert copied is not None
    assert copied.is_behind(last_use)
    assert not copied.is_behind(beside)
    assert not card.computing.put().is_behind(copied)
    wait = way.wait(brought)
    assert card.computing.put().is_behind(copied)
    assert wait.seconds == 0.25


def test_copies_come_one_after_another(card: Card) -> None:
    way, first, second = CudaLane(DEVICE), Copied(card), Copied(card)
    way.bring(first, HERE, way.now())  # type: ignore[arg-type]
    brought = way.bring(second, HERE, way.now())  # type: ignore[arg-type]
    way.wait(brought)
    behind = card.computing.put()
    assert first.operation is not None
    assert behind.is_behind(first.operation)


def test_what_is_settled_is_behind_us(card: Card) -> None:
    """Also what nobody has waited for: its room may be used again."""
    way, there = CudaLane(DEVICE), Copied(card)
    way.bring(there, HERE, way.now())  # type: ignore[arg-type]
    way.settle()
    assert there.operation is not None
    assert card.computing.put().is_behind(there.operation)
