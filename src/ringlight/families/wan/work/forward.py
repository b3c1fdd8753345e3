"""Peak bytes of a transformer's forward: what lies there for all blocks, and the largest moment of one.

It follows the transformer of Wan and parallel/attention.

S tokens of this rank, C channels, e bytes of the products' dtype, u Ulysses and r ring ranks. Hidden states, norms and
merged results are float32.
"""

from __future__ import annotations

from itertools import accumulate

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.portions import MAX_ELEMENTS, SLICE_TOKENS, slice_sizes

FLOAT = 4


class ForwardPeak(msgspec.Struct, frozen=True, kw_only=True):
    """Peak of one rank's forward of `num_tokens` tokens over a layout, with products of `item` bytes.

    Tokens are offered to attention `offered` at a time, in `num_slices` slices of which data is sent ahead (1: all at
    once). `patch` are the values of a token as it comes.
    """

    dim: int
    head_dim: int
    ffn_dim: int
    patch: int
    layout: ParallelLayout
    num_tokens: int
    offered: int
    num_slices: int
    item: int

    @property
    def own(self) -> int:
        """Tokens of the rank that has most."""
        return split_sizes(self.num_tokens, self.layout.sp)[0]

    def bytes(self, forwards: int) -> int:
        """Peak bytes of one forward, or of two that alternate: one in its largest moment, the other one paused."""
        lasting = FLOAT * self._one + self.num_tokens * self.patch * self.item
        rope = FLOAT * self.num_tokens * self.head_dim
        moment = self._buffers + max(self._making, self._attending, self._finishing)
        return int(rope + forwards * lasting + moment + (forwards - 1) * (self._buffers + self._paused))

    @property
    def _one(self) -> int:
        """Values of the hidden states: S x C."""
        return self.own * self.dim

    @property
    def _is_ahead(self) -> bool:
        return self.num_slices > 1 and self.layout.sp > 1

    @property
    def _is_whole(self) -> bool:
        """Whether attention takes q, k and v as they are made: on the only rank, unless that is too much at once."""
        return self.layout.sp == 1 and 3 * self._one <= MAX_ELEMENTS

    @property
    def _others(self) -> float:
        """The share of heads that other ranks of the Ulysses group have."""
        return 1 - 1 / self.layout.ulysses

    @property
    def _runs(self) -> list[tuple[int, float]]:
        """Tokens of which q, k and v are made at a time, each with the bytes that are on their way by then."""
        if self._is_ahead:
            sizes = slice_sizes(self.own, self.num_slices)
            before = accumulate(sizes, initial=0)
            return [
                (size, self._departing * done / max(1, self.own)) for size, done in zip(sizes, before, strict=False)
            ]
        return [(self.own if self._is_whole else min(self.own, self.offered), 0.0)]

    @property
    def _buffers(self) -> float:
        """Bytes that attention over ranks keeps for all blocks.

        They are q, k and v of all tokens that meet on this rank, and room for messages.
        """
        if self._is_whole:
            return 0
        if self._is_ahead:
            return self.item * self._one * (2 * self.layout.ring + 1)
        return self.item * self._one * (3 + 3 * self._others + 2 * min(2, self.layout.ring - 1))

    @property
    def _departing(self) -> float:
        """Bytes of copies of q, k and v on their way to other ranks, sent ahead."""
        if not self._is_ahead or self.layout.ulysses == 1:
            return 0
        copies = 3 * self._others if self.layout.ring == 1 else 2 + self._others
        return self.item * self._one * copies

    @property
    def _returned(self) -> float:
        """Bytes of outputs of own tokens and of the group's, held until the last slice of them is taken; sent ahead."""
        return self.item * self._one * (1 + self._others) if self._is_ahead else 0

    @property
    def _making(self) -> float:
        """Bytes of the norm's output, the fused product and q; k in float32 before and after its norm."""
        width = self.dim * (5 * self.item + (2 * FLOAT if self.item < FLOAT else FLOAT))
        return self._returned + max(tokens * width + left for tokens, left in self._runs)

    @property
    def _merging(self) -> int:
        """Bytes for each value while results are merged: the sum so far, and a result as it comes and in float32."""
        return self.item + 2 * FLOAT if self.item < FLOAT else 2 * FLOAT

    @property
    def _attending(self) -> float:
        own, others = 1 / self.layout.ulysses, self._others
        if self._is_whole:
            return self._one * 6 * self.item  # q, k, v as made (v still within the fused product) and the output
        if self._is_ahead:
            late = slice_sizes(self.own, self.num_slices)[-1] / self.own if self.own else 0.0
            early = self._departing + self._one * (FLOAT * own + self._merging * others * (1 - late))
            return max(early, self._one * (self._merging * own + 2 * self.item * others))
        there = (2 * self.item if self.layout.ulysses > 1 else 0) + self.item + FLOAT  # the ring's own copy of k and v
        kernel = max(self._merging, there) if self.layout.ring > 1 else self.item
        joined = self.item * (2 + others) if self.layout.ulysses > 1 else 0
        return self._one * max(kernel, joined)

    @property
    def _finishing(self) -> float:
        """Bytes of what follows attention, for 4,096 tokens: cross-attention with q in float32, or the feed-forward."""
        dim, item = self.dim, self.item
        widest = max(dim * (2 * item + 2 * FLOAT), (self.ffn_dim + 2 * dim) * item)
        if not self._is_ahead:
            return min(self.own, SLICE_TOKENS) * widest + item * self._one
        joined = item * dim if self.layout.ulysses > 1 else 0
        each = (min(tokens, SLICE_TOKENS) * widest + joined * tokens + left for tokens, left in self._runs)
        return self._returned + max(each)

    @property
    def _paused(self) -> float:
        """Bytes that a paused forward holds beside its buffers.

        Where data travels it is what is sent, or between Ulysses ranks the outputs that come back. On the only rank it
        is q, k and v as they were made, v still within the fused product.
        """
        if self._is_whole:
            return 5 * self.item * self._one
        if self.layout.ulysses == 1:
            return 0
        return max(self._departing, self._returned) if self._is_ahead else self.item * self._one * (1 + self._others)
