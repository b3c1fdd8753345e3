"""Self-attention of a sequence that lies on many ranks: Ulysses outside, ring inside. Exact for any length.

B batch (1), S tokens of this rank, H heads, D head width. With u Ulysses ranks and r ring ranks:
- Ulysses (arXiv 2309.14509): one exchange gives each of the u ranks all tokens of its group for a share of the heads;
  a second one takes the result back. Heads are dealt unevenly where they do not divide.
- Ring (arXiv 2310.01889): K and V travel around r ranks in one buffer, received into a second one while the kernel runs
  on the first. Partial results stay float32 until the last merge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.attention.kernel import AttentionKernel, merge
from ringlight.parallel.collectives import Transfers, exchange_parts
from ringlight.parallel.shard import SequenceShard, split_sizes


def attend(q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, shard: SequenceShard, kernel: AttentionKernel) -> Tensor:
    """Attention of this rank's queries to the keys of the whole sequence, BSHD in the dtype of q."""
    if shard.mesh.ulysses.size == 1:
        return _around_the_ring(q_BSHD, k_BSHD, v_BSHD, shard, kernel)
    q, k, v = _tokens_to_heads(torch.stack([q_BSHD, k_BSHD, v_BSHD]), shard).unbind(0)
    return _heads_to_tokens(_around_the_ring(q, k, v, shard, kernel), q_BSHD.shape[2], shard)


def _tokens_to_heads(qkv_3BSHD: Tensor, shard: SequenceShard) -> Tensor:
    """(3, B, S, H, D) of this rank's tokens and all heads -> its group's tokens and this rank's heads."""
    axis = shard.mesh.ulysses
    heads = split_sizes(qkv_3BSHD.shape[3], axis.size)
    shape = list(qkv_3BSHD.shape)
    received = [qkv_3BSHD.new_empty(*shape[:2], tokens, heads[axis.rank], shape[4]) for tokens in shard.ulysses_sizes]
    exchange_parts(qkv_3BSHD.split(heads, dim=3), received, axis, "ulysses")
    return torch.cat(received, dim=2)


def _heads_to_tokens(out_BSHD: Tensor, num_heads: int, shard: SequenceShard) -> Tensor:
    """The way back: this rank's heads of its group's tokens -> all heads of its own tokens."""
    axis = shard.mesh.ulysses
    batch, _, _, width = out_BSHD.shape
    tokens = shard.ulysses_sizes
    received = [
        out_BSHD.new_empty(batch, tokens[axis.rank], heads, width) for heads in split_sizes(num_heads, axis.size)
    ]
    exchange_parts(out_BSHD.split(tokens, dim=1), received, axis, "ulysses")
    return torch.cat(received, dim=2)


def _around_the_ring(q: Tensor, k: Tensor, v: Tensor, shard: SequenceShard, kernel: AttentionKernel) -> Tensor:
    """Attention of `q` to the keys that every ring rank holds, each in turn as they come by."""
    axis = shard.mesh.ring
    if axis.size == 1:
        return kernel(q, k, v)[0] if q.numel() and k.numel() else torch.zeros_like(q)
    sizes = shard.ring_sizes
    held = torch.stack([k, v])
    buffers = [held.new_empty(2, k.shape[0], max(sizes), *k.shape[2:]).flatten() for _ in range(min(2, axis.size - 1))]
    merged: tuple[Tensor, Tensor] | None = None
    for hop in range(axis.size):
        coming, transfers = held, None
        if hop + 1 < axis.size:
            size = sizes[(axis.rank - hop - 1) % axis.size]
            shape = (2, k.shape[0], size, *k.shape[2:])
            coming = buffers[hop % 2][: 2 * k.shape[0] * size * k.shape[2] * k.shape[3]].view(shape)
            before, after = (axis.rank - 1) % axis.size, (axis.rank + 1) % axis.size
            transfers = Transfers({after: held}, {before: coming}, axis, "ring")
        merged = _with_part(merged, q, held, kernel)
        if transfers is not None:
            transfers.wait()
        held = coming
    return torch.zeros_like(q) if merged is None else merged[0].to(q.dtype)


def _with_part(
    merged: tuple[Tensor, Tensor] | None, q: Tensor, held: Tensor, kernel: AttentionKernel
) -> tuple[Tensor, Tensor] | None:
    """What is merged so far, with the attention to the keys that are held."""
    if not q.numel() or not held.numel():
        return merged
    out, lse = kernel(q, held[0], held[1])
    return (out.float(), lse) if merged is None else merge(*merged, out.float(), lse)
