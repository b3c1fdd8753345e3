"""Exchanges of parts of unequal size. All sizes are known beforehand; nothing is padded or asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ringlight.parallel.mesh import Axis


class Transfers:
    """Sends and receives under way along an axis, started together. `wait` ends them; nothing waits twice."""

    def __init__(self, sends: dict[int, Tensor], receives: dict[int, Tensor], axis: Axis) -> None:
        """Tensors by rank of the axis, contiguous; for empty ones nothing travels.

        One batch, because NCCL would deadlock on a receive that is started before its own send.
        """
        operations = [
            dist.P2POp(direction, tensor, axis.ranks[peer], group=axis.group)
            for direction, tensors in ((dist.irecv, receives), (dist.isend, sends))
            for peer, tensor in tensors.items()
            if tensor.numel()
        ]
        self._works = dist.batch_isend_irecv(operations) if operations else []

    def wait(self) -> None:
        works, self._works = self._works, []
        for work in works:
            work.wait()


def gather_parts(x_BSC: Tensor, sizes: Sequence[int], axis: Axis) -> Tensor:
    """The parts of all ranks of an axis, joined along tokens, on every one of them. `sizes` are their tokens."""
    if axis.size == 1:
        return x_BSC
    batch, _, channels = x_BSC.shape
    mine = x_BSC.contiguous()
    others = {i: mine.new_empty(batch, size, channels) for i, size in enumerate(sizes) if i != axis.rank}
    Transfers(dict.fromkeys(others, mine), others, axis).wait()
    return torch.cat([others.get(i, mine) for i in range(axis.size)], dim=1)


def exchange_parts(sent: Sequence[Tensor], received: Sequence[Tensor], axis: Axis) -> None:
    """`sent[i]` goes to rank i of the axis, and what rank i sent to this one fills `received[i]`: one exchange."""
    outgoing = torch.cat([part.flatten() for part in sent])
    counts = [part.numel() for part in received]
    incoming = outgoing.new_empty(sum(counts))
    dist.all_to_all_single(incoming, outgoing, counts, [part.numel() for part in sent], group=axis.group)
    for part, flat in zip(received, incoming.split(counts), strict=True):
        part.copy_(flat.view(part.shape))
