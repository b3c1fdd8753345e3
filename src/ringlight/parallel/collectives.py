"""Exchanges of parts of unequal size, all of them point-to-point.

All sizes are known beforehand: nothing is padded, and no rank asks another for its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ringlight.parallel.collective import collective
from ringlight.parallel.link import Kind, Link, LinkLost
from ringlight.parallel.mesh import Axis


class Transfers:
    """Sends and receives under way along an axis, started together. `wait` ends them; a second `wait` does nothing.

    What is sent may not be written to, and what is received not read, before `wait`.
    """

    @collective
    def __init__(self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], axis: Axis, kind: Kind) -> None:
        """Start the transfers of tensors by rank of the axis, contiguous; for empty ones nothing travels."""
        self._link, self._kind = axis.link, kind
        self._on_cuda = any(tensor.is_cuda for tensor in (*sends.values(), *receives.values()))
        self._staged: list[tuple[Tensor, Tensor]] = []
        me, link = axis.ranks[axis.rank], self._link
        self._operations = operations = list[dist.P2POp]()  # holds what travels until it has arrived
        for rank, tensor in ((axis.ranks[peer], tensor) for peer, tensor in receives.items() if tensor.numel()):
            operations.append(dist.P2POp(dist.irecv, self._landing(tensor), rank, link.lane(rank, me)))
        for rank, tensor in ((axis.ranks[peer], tensor) for peer, tensor in sends.items() if tensor.numel()):
            link.count(kind, tensor.nbytes)
            operations.append(dist.P2POp(dist.isend, self._departing(tensor), rank, link.lane(me, rank)))
        try:
            self._works = start(operations, link)
        except RuntimeError as error:
            raise LinkLost(str(error)) from error

    def wait(self) -> None:
        """Return when all has been sent and received (on CUDA: make the current stream wait for it)."""
        works, self._works = self._works, []
        if not works:
            return
        self._operations.clear()
        with self._link.waiting(self._kind, self._on_cuda):
            try:
                for work in works:
                    work.wait()
            except RuntimeError as error:  # the peer's end of the connection is closed
                raise LinkLost(str(error)) from error
            staged, self._staged = self._staged, []
            for tensor, landed in staged:
                tensor.copy_(landed)

    def _landing(self, tensor: Tensor) -> Tensor:
        """Destination of a received message: the tensor itself, or host memory if the backend takes no other."""
        assert tensor.is_contiguous(), "messages are received into contiguous memory"
        if not self._must_stage(tensor):
            return tensor
        landing = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._staged.append((tensor, landing))
        return landing

    def _departing(self, tensor: Tensor) -> Tensor:
        assert tensor.is_contiguous(), "messages are sent from contiguous memory"
        return tensor.cpu() if self._must_stage(tensor) else tensor

    def _must_stage(self, tensor: Tensor) -> bool:
        """Whether a message goes through host memory: gloo takes nothing else in point-to-point messages."""
        return tensor.is_cuda and self._link.is_gloo


def start(operations: list[dist.P2POp], link: Link) -> list[dist.Work]:
    """Start sends and receives: with NCCL in one batch, where a receive started before its own send would deadlock."""
    if not operations:
        return []
    if link.is_gloo:
        return [operation.op(operation.tensor, operation.peer, operation.group) for operation in operations]
    works: list[dist.Work] = dist.batch_isend_irecv(operations)
    return works


@collective
def gather_parts(x: Tensor, sizes: Sequence[int], axis: Axis, dim: int = 1, kind: Kind = "gather") -> Tensor:
    """Gather the parts of all ranks of an axis, joined along `dim`, on every rank. `sizes` are theirs along it."""
    if axis.size == 1:
        return x
    mine = x.contiguous()
    shape = list(mine.shape)
    others = {
        i: mine.new_empty(*shape[:dim], size, *shape[dim + 1 :]) for i, size in enumerate(sizes) if i != axis.rank
    }
    Transfers(dict.fromkeys(others, mine), others, axis, kind).wait()
    return torch.cat([others.get(i, mine) for i in range(axis.size)], dim=dim)
