"""Self-attention of a sequence that lies on many ranks: Ulysses outside, ring inside. Exact for any length.

B batch (1), S tokens of this rank, H heads, D head width. With u Ulysses ranks and r ring ranks:
- Ulysses (arXiv 2309.14509): one exchange gives each of the u ranks all tokens of its group for a share of the heads;
  a second one takes the result back. Heads are dealt unevenly where they do not divide.
- Ring (arXiv 2310.01889): K and V travel around r ranks in one buffer, received into a second one while the kernel runs
  on the first. Partial results come in the kernel's dtype, and are merged and kept in float32.

Where the link is slow, `Ahead` (ahead.py) hides it behind what precedes and follows attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ringlight.core.layout import split_sizes
from ringlight.kernels.attention.kernel import AttentionKernel, attend_more
from ringlight.parallel.ahead import Ahead
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.shard import SequenceShard


class SequenceAttention(Protocol):
    """The attention of one block after another, over the ranks of a sequence.

    For each block: `offer` q, k and v of every run of every part of this rank's tokens, `attend`, then take the
    `outputs`. Between the offers and `attend`, and between `attend` and the outputs, data travels.
    """

    parts: tuple[slice, ...]

    def runs(self, part: slice, longest: int, most: int) -> list[slice]:
        """Runs of tokens in which to offer a part.

        They are short, for less room, if they are copied anyway, and if there are more than `most`, which is as many as
        may be offered at once.
        """
        ...

    def offer(self, run: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Take q, k, v of the next run, and send what others need of them. All ranks offer parts in the same order."""
        ...

    def attend(self) -> None:
        """Attend to the whole sequence, once all parts are offered."""
        ...

    def outputs(self, is_last: bool) -> Iterator[tuple[slice, Tensor]]:
        """(part, its attention BSHD in the dtype of q) for each of `parts`, in order. `is_last`: no block follows."""
        ...

    def settle(self) -> None:
        """Wait for what travels, where nothing else is done with it. All ranks call it at the same place."""
        ...


def sequence_attention(shard: SequenceShard, kernel: AttentionKernel, num_slices: int = 1) -> SequenceAttention:
    """Attention of this rank's tokens: in one piece, or with slices sent ahead if `num_slices` is above 1."""
    if num_slices > 1 and shard.mesh.sequence.size > 1:
        return Ahead(shard, kernel, num_slices)
    return Whole(shard, kernel)


def attend(
    q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, shard: SequenceShard, kernel: AttentionKernel, num_slices: int = 1
) -> Tensor:
    """Attention of this rank's queries to the keys of the whole sequence, BSHD in the dtype of q."""
    attention = sequence_attention(shard, kernel, num_slices)
    for part in attention.parts:
        for run in attention.runs(part, max(1, q_BSHD.shape[1]), q_BSHD.shape[1]):
            attention.offer(run, q_BSHD[:, run], k_BSHD[:, run], v_BSHD[:, run])
    attention.attend()
    return torch.cat([out for _, out in attention.outputs(is_last=True)], dim=1)


class Whole:
    """All tokens of this rank at once, with room for two ranks' keys and values."""

    def __init__(self, shard: SequenceShard, kernel: AttentionKernel) -> None:
        self.parts: tuple[slice, ...] = (slice(0, shard.stop - shard.start),)
        self._is_alone = shard.mesh.sequence.size == 1
        self._ulysses = None if shard.mesh.ulysses.size == 1 else Ulysses(shard)
        self._ring = Ring(shard, kernel)
        self._out: Tensor | None = None

    def runs(self, part: slice, longest: int, most: int) -> list[slice]:
        if self._is_alone and part.stop <= most:
            return [part]
        begins = range(part.start, max(part.stop, part.start + 1), longest)
        return [slice(begin, min(begin + longest, part.stop)) for begin in begins]

    def offer(self, run: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        if self._is_alone and run == self.parts[0]:
            return self._ring.start(q_BSHD, k_BSHD, v_BSHD)
        exchange = self._ulysses or self._ring
        exchange.put(run, q_BSHD, k_BSHD, v_BSHD)
        if run.stop == self.parts[0].stop:
            exchange.depart()

    def attend(self) -> None:
        if self._ulysses is None:
            self._out = self._ring.attend()
        else:
            self._ring.start(*self._ulysses.heads())
            self._ulysses.start_to_tokens(self._ring.attend())

    def outputs(self, is_last: bool) -> Iterator[tuple[slice, Tensor]]:
        yield self.parts[0], self._take_out()  # not held here while the next block's q, k, v are made

    def settle(self) -> None:
        if self._ulysses is not None:
            self._ulysses.settle()
        self._ring.settle()

    def _take_out(self) -> Tensor:
        out, self._out = self._ulysses.tokens() if self._ulysses else self._out, None
        assert out is not None, "attend comes before its outputs"
        return out


class Ulysses:
    """The two exchanges of a Ulysses group: own tokens of all heads for all its tokens of some heads, and back."""

    def __init__(self, shard: SequenceShard) -> None:
        self._axis = shard.mesh.ulysses
        self._tokens = shard.ulysses_sizes
        self._heads: tuple[int, ...] = ()
        # Tokens of the group, heads of this rank; tokens of this rank, heads of each. Used for all blocks.
        self._qkv_S3hD, self._by_rank_S3hD = torch.empty(0), list[Tensor]()
        self._parts: list[Tensor] = []
        self._transfers: Transfers | None = None

    def put(self, run: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Lay q, k and v of a run of own tokens ready, by the ranks that they are for."""
        if not self._heads:
            num_heads, width = q_BSHD.shape[2:]
            own = self._tokens[self._axis.rank]
            self._heads = split_sizes(num_heads, self._axis.size)
            self._qkv_S3hD = q_BSHD.new_empty(sum(self._tokens), 3, self._heads[self._axis.rank], width)
            self._by_rank_S3hD = [q_BSHD.new_empty(own, 3, heads, width) for heads in self._heads]
            self._by_rank_S3hD[self._axis.rank] = self._qkv_S3hD.split(self._tokens)[self._axis.rank]
        for index, whole_BSHD in enumerate((q_BSHD, k_BSHD, v_BSHD)):
            for kept, heads in zip(self._by_rank_S3hD, whole_BSHD[0].split(self._heads, dim=1), strict=True):
                kept[run, index] = heads

    @collective
    def depart(self) -> None:
        """Send q, k and v of each rank's heads to it, in one message, and receive those of this one's."""
        self._transfers = self._start(self._by_rank_S3hD, self._qkv_S3hD.split(self._tokens))

    @collective
    def _start(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> Transfers:
        others = [rank for rank in range(self._axis.size) if rank != self._axis.rank]
        return Transfers(
            {i: sent[i].contiguous() for i in others}, {i: received[i] for i in others}, self._axis, "ulysses"
        )

    def heads(self) -> tuple[Tensor, ...]:
        """q, k and v of the group's tokens and this rank's heads, BSHD."""
        self._wait()
        return self._qkv_S3hD.unsqueeze(0).unbind(2)

    @collective
    def start_to_tokens(self, out_BSHD: Tensor) -> None:
        """Send outputs of each rank's tokens to it, and receive those of this one's."""
        own, width = self._tokens[self._axis.rank], out_BSHD.shape[3]
        self._parts = [out_BSHD.new_empty(1, own, heads, width) for heads in self._heads]
        going = list(out_BSHD.split(self._tokens, dim=1))
        self._transfers = self._start(going, self._parts)
        self._parts[self._axis.rank] = going[self._axis.rank]

    def tokens(self) -> Tensor:
        """Outputs of all heads of own tokens, BSHD."""
        self._wait()
        parts, self._parts = self._parts, []
        return torch.cat(parts, dim=2)

    def settle(self) -> None:
        """Wait for an exchange that was started."""
        if self._transfers is not None:
            self._wait()

    def _wait(self) -> None:
        assert self._transfers is not None, "an exchange is started before it is waited for"
        self._transfers.wait()
        self._transfers = None


class Ring:
    """Attention of this rank's queries to the keys that every ring rank holds, each in turn as they come by."""

    def __init__(self, shard: SequenceShard, kernel: AttentionKernel) -> None:
        self._axis = shard.mesh.ring
        self._sizes = shard.ring_sizes
        self._kernel = kernel
        self._buffers: list[Tensor] = []
        self._own: tuple[Tensor, Tensor] | None = None
        self._queries: Tensor | None = None
        self._held: list[Tensor] = []
        self._coming: tuple[Tensor, Transfers] | None = None

    def put(self, run: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Lay q, k and v of a run of own tokens ready, in buffers that are used for all blocks."""
        if self._own is None:
            batch, _, heads, width = q_BSHD.shape
            shape = (batch, self._sizes[self._axis.rank], heads, width)
            self._own = q_BSHD.new_empty(shape), k_BSHD.new_empty(2, *shape)
        own_q_BSHD, own_2BSHD = self._own
        own_q_BSHD[:, run], own_2BSHD[0, :, run], own_2BSHD[1, :, run] = q_BSHD, k_BSHD, v_BSHD

    @collective
    def depart(self) -> None:
        """Send k and v of all own tokens on their way, once they lie ready."""
        assert self._own is not None, "tokens are put before they depart"
        self._begin(*self._own)

    @collective
    def start(self, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Hold q, k, v of all own tokens, and send k and v on their way."""
        if self._axis.size > 1:
            self._begin(q_BSHD, torch.stack([k_BSHD, v_BSHD]))
        else:
            self._queries, self._held = q_BSHD, [k_BSHD, v_BSHD]

    @collective
    def _begin(self, q_BSHD: Tensor, held_2BSHD: Tensor) -> None:
        self._queries, self._held = q_BSHD, list(held_2BSHD.unbind(0))
        self._coming = self._pass_on(held_2BSHD, hop=0) if self._axis.size > 1 else None

    def attend(self) -> Tensor:
        """Attention to all keys, BSHD in the dtype of q. The inputs are freed."""
        assert self._queries is not None, "start comes before attend"
        (q, self._queries), (held, self._held) = (self._queries, None), (self._held, [])
        if self._axis.size == 1:
            return self._kernel(q, *held)[0] if q.numel() and held[0].numel() else torch.zeros_like(q)
        merged: tuple[Tensor, Tensor] | None = None
        for hop in range(self._axis.size):
            merged = attend_more(merged, q, held[0], held[1], self._kernel)
            if self._coming is not None:
                coming_2BSHD, transfers = self._coming
                transfers.wait()
                held = list(coming_2BSHD.unbind(0))
                self._coming = self._pass_on(coming_2BSHD, hop + 1) if hop + 2 < self._axis.size else None
        return torch.zeros_like(q) if merged is None else merged[0].to(q.dtype)

    def settle(self) -> None:
        """Wait for keys and values that come."""
        if self._coming is not None:
            self._coming[1].wait()

    @collective
    def _pass_on(self, held_2BSHD: Tensor, hop: int) -> tuple[Tensor, Transfers]:
        """Send what is held to the next rank, and receive what the one before holds."""
        axis = self._axis
        size = self._sizes[(axis.rank - hop - 1) % axis.size]
        shape = (2, held_2BSHD.shape[1], size, *held_2BSHD.shape[3:])
        coming = self._buffer(hop % 2, held_2BSHD)[: shape[1] * 2 * size * shape[3] * shape[4]].view(shape)
        before, after = (axis.rank - 1) % axis.size, (axis.rank + 1) % axis.size
        return coming, Transfers({after: held_2BSHD}, {before: coming}, axis, "ring")

    def _buffer(self, index: int, like_2BSHD: Tensor) -> Tensor:
        """One of two buffers, each with room for the longest rank's keys and values; made once, used for all blocks."""
        while len(self._buffers) <= index:
            two, batch, _, heads, width = like_2BSHD.shape
            self._buffers.append(like_2BSHD.new_empty(two * batch * max(self._sizes) * heads * width))
        return self._buffers[index]
