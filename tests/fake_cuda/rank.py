"""One rank of many, alone: its link takes all that it sends, and delivers what it expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from ringlight.core.layout import ParallelLayout
from ringlight.parallel.link import Kind, Link
from ringlight.parallel.mesh import ParallelMesh


class DeliveringLink(Link):
    """A link as of NCCL, over torch's fake process group, whose messages are there at once."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        super().__init__()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
        group = dist.group.WORLD
        assert group is not None
        self._lanes = [group]

    @contextmanager
    def waiting(self, kind: Kind, on_cuda: bool) -> Iterator[None]:
        """Without events, which only a device has."""
        yield


def mesh_of(layout: ParallelLayout, rank: int = 0) -> ParallelMesh:
    """What a rank of a layout sees."""
    if layout.num_ranks == 1:
        return ParallelMesh.alone()
    return ParallelMesh.of(layout, rank, DeliveringLink(rank, layout.num_ranks))
