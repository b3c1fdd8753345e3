"""Self-attention of a sequence that lies on many ranks: Ulysses outside, ring inside. Exact for any length.

B batch (1), S tokens of this rank, H heads, D head width. With u Ulysses ranks and r ring ranks:
- Ulysses (arXiv 2309.14509): one exchange gives each of the u ranks all tokens of its group for a share of the heads;
  a second one takes the result back. Heads are dealt unevenly where they do not divide.
- Ring (arXiv 2310.01889): K and V travel around r ranks in one buffer, received into a second one while the kernel runs
  on the first. Partial results come in the kernel's dtype, and are merged and kept in float32.

Where the link is slow, `Ahead` (ahead.py) hides it behind what precedes and follows attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ringlight.attention.kernel import AttentionKernel, attend_more
from ringlight.core.layout import split_sizes
from ringlight.parallel.ahead import Ahead
from ringlight.parallel.collectives import Transfers, start_exchange
from ringlight.parallel.shard import SequenceShard


class SequenceAttention(Protocol):
    """The attention of one block after another, over the ranks of a sequence.

    For each block: `offer` q, k and v of every part of this rank's tokens, `attend`, then take the `outputs`. Between
    the offers and `attend`, and between `attend` and the outputs, data travels.
    """

    parts: tuple[slice, ...]

    def offer(self, part: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Take q, k, v of one of `parts`, and send what others need of them. All ranks offer in the same order."""
        ...

    def attend(self) -> None:
        """Attend to the whole sequence, once all parts are offered."""
        ...

    def outputs(self, is_last: bool) -> Iterator[tuple[slice, Tensor]]:
        """(part, its attention BSHD in the dtype of q) for each of `parts`, in order. `is_last`: no block follows."""
        ...


def sequence_attention(shard: SequenceShard, kernel: AttentionKernel, num_slices: int = 1) -> SequenceAttention:
    """How this rank's tokens attend: in one piece, or with more than one slice sent ahead."""
    if num_slices > 1 and shard.mesh.sequence.size > 1:
        return Ahead(shard, kernel, num_slices)
    return Whole(shard, kernel)


def attend(
    q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, shard: SequenceShard, kernel: AttentionKernel, num_slices: int = 1
) -> Tensor:
    """Attention of this rank's queries to the keys of the whole sequence, BSHD in the dtype of q."""
    attention = sequence_attention(shard, kernel, num_slices)
    for part in attention.parts:
        attention.offer(part, q_BSHD[:, part], k_BSHD[:, part], v_BSHD[:, part])
    attention.attend()
    return torch.cat([out for _, out in attention.outputs(is_last=True)], dim=1)


class Whole:
    """All tokens of this rank at once, with room for two ranks' keys and values."""

    def __init__(self, shard: SequenceShard, kernel: AttentionKernel) -> None:
        self.parts: tuple[slice, ...] = (slice(0, shard.stop - shard.start),)
        self._ulysses = None if shard.mesh.ulysses.size == 1 else Ulysses(shard)
        self._ring = Ring(shard, kernel)
        self._out: Tensor | None = None

    def offer(self, part: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        if self._ulysses is None:
            self._ring.start(q_BSHD, k_BSHD, v_BSHD)
        else:
            self._ulysses.start_to_heads(q_BSHD, k_BSHD, v_BSHD)

    def attend(self) -> None:
        if self._ulysses is None:
            self._out = self._ring.attend()
        else:
            self._ring.start(*self._ulysses.heads())
            self._ulysses.start_to_tokens(self._ring.attend())

    def outputs(self, is_last: bool) -> Iterator[tuple[slice, Tensor]]:
        yield self.parts[0], self._take_out()  # not held here while the next block's q, k, v are made

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
        self._qkv_S3hD = torch.empty(0)  # tokens of the group, heads of this rank; used for all blocks
        self._parts: list[Tensor] = []
        self._transfers: Transfers | None = None

    def start_to_heads(self, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Send q, k and v of each rank's heads to it, in one message, and receive those of this one's."""
        if not self._heads:
            num_heads, width = q_BSHD.shape[2:]
            self._heads = split_sizes(num_heads, self._axis.size)
            self._qkv_S3hD = q_BSHD.new_empty(sum(self._tokens), 3, self._heads[self._axis.rank], width)
        by_rank = zip(*(x[0].split(self._heads, dim=1) for x in (q_BSHD, k_BSHD, v_BSHD)), strict=True)
        sent = [torch.stack(qkv, dim=1) for qkv in by_rank]
        self._transfers = start_exchange(sent, self._qkv_S3hD.split(self._tokens), self._axis, "ulysses")

    def heads(self) -> tuple[Tensor, ...]:
        """q, k and v of the group's tokens and this rank's heads, BSHD."""
        self._wait()
        return self._qkv_S3hD.unsqueeze(0).unbind(2)

    def start_to_tokens(self, out_BSHD: Tensor) -> None:
        """Send outputs of each rank's tokens to it, and receive those of this one's."""
        own, width = self._tokens[self._axis.rank], out_BSHD.shape[3]
        self._parts = [out_BSHD.new_empty(1, own, heads, width) for heads in self._heads]
        self._transfers = start_exchange(out_BSHD.split(self._tokens, dim=1), self._parts, self._axis, "ulysses")

    def tokens(self) -> Tensor:
        """Outputs of all heads of own tokens, BSHD."""
        self._wait()
        parts, self._parts = self._parts, []
        return torch.cat(parts, dim=2)

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
        self._queries: Tensor | None = None
        self._held: list[Tensor] = []
        self._coming: tuple[Tensor, Transfers] | None = None

    def start(self, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        """Hold q, k, v, and send k and v on their way."""
        self._queries = q_BSHD
        self._held = [k_BSHD, v_BSHD]
        if self._axis.size > 1:
            held_2BSHD = torch.stack(self._held)
            self._held = list(held_2BSHD.unbind(0))
            self._coming = self._pass_on(held_2BSHD, hop=0)

    def attend(self) -> Tensor:
        """Attention to all keys, BSHD in the dtype of q. What was held is given up."""
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
