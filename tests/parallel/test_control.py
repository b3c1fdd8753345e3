"""What ranks tell each other apart from data."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.parallel.control import LETTER_BYTES, Control
from ringlight.parallel.mesh import ParallelMesh
from tests.parallel.ranks import on_ranks

LENGTHS = (0, 1, LETTER_BYTES - 9, LETTER_BYTES - 8, LETTER_BYTES - 7, LETTER_BYTES, 3 * LETTER_BYTES, 0, 5)


def messages_of(rank: int) -> list[bytes]:
    return [bytes((rank + index) % 256 for index in range(length)) for length in LENGTHS]


def heard(mesh: ParallelMesh) -> Tensor:
    """Whether each message of rank 0 has come here, whatever its length; other ranks have their own in hand."""
    control = Control(dist.group.WORLD, dist.get_rank(), dist.get_world_size())
    return torch.tensor(
        [control.broadcast(mine) == sent for mine, sent in zip(messages_of(control.rank), messages_of(0), strict=True)]
    )


def test_a_message_of_any_length_is_told_to_all() -> None:
    for found in on_ranks(ParallelLayout(ring=3), heard):
        assert found.all()
