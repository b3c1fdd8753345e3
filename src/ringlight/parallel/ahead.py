"""Ahead: attention over many ranks with its data sent slice by slice, as soon as each slice exists.

Everything between one self-attention and the next works token by token. Done on slices of a rank's tokens, it lets each
slice's q, k and v of the next block travel while the following slices are computed, and the last ones while attention
to the first runs. Exact; results differ from `Whole`'s by the order of sums.

Every rank sends the keys and values of its tokens straight to all ranks that need them: bytes are those of a ring
inside Ulysses, and all of a block's keys (for this rank's heads) are held at once. Rows of the buffers stand in the
order in which they are expected, which attention does not mind: own tokens, then early slices of all others, then
late ones. One kernel call takes the rows up to the last early one while the late ones still travel.

S tokens of this rank, R rows of a buffer, H heads, D head width, h heads of this rank (H dealt over Ulysses ranks).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ringlight.attention.kernel import AttentionKernel, attend_more
from ringlight.core.layout import split_sizes
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.link import Kind
from ringlight.parallel.shard import SequenceShard

LATE_SHARE = 0.25


class Ahead:
    """Attention of one block after another, `num_slices` slices at a time. A `SequenceAttention`."""

    def __init__(self, shard: SequenceShard, kernel: AttentionKernel, num_slices: int) -> None:
        self._kernel = kernel
        self._mesh = shard.mesh
        self._slices = [split_sizes(size, num_slices) for size in shard.sizes]  # of each rank of the sequence
        self._num_early = num_slices - max(1, round(LATE_SHARE * num_slices))
        self._me = shard.mesh.sequence.rank
        ends = accumulate(self._slices[self._me], initial=0)
        self.parts = tuple(slice(start, stop) for start, stop in pairwise(ends))
        width = shard.mesh.ulysses.size
        first = shard.mesh.ring.rank * width
        self._group = range(first, first + width)  # the Ulysses group's places in the sequence
        self._kv_rows = Rows(self._slices, self._me, range(len(self._slices)), self._num_early)
        self._q_rows = Rows(self._slices, self._me, self._group, self._num_early)
        self._kvq = self._kv = self._q = torch.empty(0)
        self._heads: tuple[int, ...] = ()
        self._under_way: list[list[Transfers]] = []
        self._out = torch.empty(0)
        self._coming: list[tuple[list[Tensor], Transfers]] = []

    def offer(self, part: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        if not self._heads:
            self._allocate(k_BSHD)
        index = len(self._under_way)
        assert part == self.parts[index], "parts are offered in order"
        q_SHD, k_SHD, v_SHD = q_BSHD[0], k_BSHD[0], v_BSHD[0]
        own = self._mesh.ulysses.rank
        mine = slice(sum(self._heads[:own]), sum(self._heads[: own + 1]))
        self._kv[part, 0], self._kv[part, 1], self._q[part] = k_SHD[:, mine], v_SHD[:, mine], q_SHD[:, mine]
        if len(self._heads) == 1:
            self._under_way.append([self._send(index, [self._kv[part]], self._kv, self._kv_rows, "ring")])
        elif self._mesh.ring.size == 1:
            kvq = self._by_group(k_SHD, v_SHD, q_SHD)
            self._under_way.append([self._send(index, kvq, self._kvq, self._kv_rows, "ulysses")])
        else:
            kv, q = self._by_group(k_SHD, v_SHD), self._by_group(q_SHD)
            self._under_way.append(
                [
                    self._send(index, kv, self._kv, self._kv_rows, "ring"),
                    self._send(index, kv, self._kv, self._kv_rows, "ulysses"),
                    self._send(index, q, self._q.unsqueeze(1), self._q_rows, "ulysses"),
                ]
            )

    def attend(self) -> None:
        early_kv, early_q = self._kv_rows.num_early, self._q_rows.num_early
        transfers, self._under_way = self._under_way, []
        assert len(transfers) == len(self.parts), "all parts are offered before attend"
        for transfer in (transfer for some in transfers[: self._num_early] for transfer in some):
            transfer.wait()
        merged = self._attend(None, self._q[:early_q], slice(0, early_kv))
        for transfer in (transfer for some in transfers[self._num_early :] for transfer in some):
            transfer.wait()
        own = self.parts[-1].stop
        late = slice(early_kv, None)
        if len(self._group) > 1:  # what goes back to others first, so that it travels while our own is computed
            self._store(slice(early_q, None), self._attend(None, self._q[early_q:], slice(None)))
            self._store(slice(own, early_q), self._attend(_rows(merged, own, early_q), self._q[own:early_q], late))
            self._coming = [self._send_back(index) for index in range(len(self.parts))]
        self._store(slice(0, own), self._attend(_rows(merged, 0, own), self._q[:own], late))

    def outputs(self) -> Iterator[tuple[slice, Tensor]]:
        for index, part in enumerate(self.parts):
            out_SHD = self._out[part]
            if self._coming:
                others, transfers = self._coming[index]
                transfers.wait()
                own = self._mesh.ulysses.rank
                out_SHD = torch.cat([*others[:own], out_SHD, *others[own:]], dim=1)
            yield part, out_SHD.unsqueeze(0)
        self._coming = []

    def _allocate(self, like_BSHD: Tensor) -> None:
        num_heads, width = like_BSHD.shape[2:]
        self._heads = split_sizes(num_heads, self._mesh.ulysses.size)
        heads = self._heads[self._mesh.ulysses.rank]
        if self._mesh.ring.size == 1:
            self._kvq = like_BSHD.new_empty(self._kv_rows.num_all, 3, heads, width)
            self._kv, self._q = self._kvq[:, :2], self._kvq[:, 2]
        else:
            self._kv = like_BSHD.new_empty(self._kv_rows.num_all, 2, heads, width)
            self._q = like_BSHD.new_empty(self._q_rows.num_all, heads, width)
        self._out = like_BSHD.new_empty(self._q.shape)

    def _by_group(self, *tensors_SHD: Tensor) -> list[Tensor]:
        """Tensors of a slice, side by side (S, n, h, D), for each rank of the Ulysses group its heads."""
        by_group = zip(*(x.split(self._heads, dim=1) for x in tensors_SHD), strict=True)
        return [torch.stack(tensors, dim=1) for tensors in by_group]

    def _send(self, index: int, by_group: list[Tensor], buffer: Tensor, rows: Rows, kind: Kind) -> Transfers:
        """Send a slice of our tokens: of kind "ulysses" to its group, "ring" to all others. Theirs come in."""
        to = [place for place in range(self._mesh.sequence.size) if (place in self._group) == (kind == "ulysses")]
        others = [place for place in to if place != self._me]
        sent = {place: by_group[place % len(self._heads)] for place in others}
        return Transfers(sent, {i: buffer[rows.of(i, index)] for i in others}, self._mesh.sequence, kind)

    def _send_back(self, index: int) -> tuple[list[Tensor], Transfers]:
        """Outputs of the others' slices go to them, and those of our own slice come in, by Ulysses rank."""
        others = [place for place in self._group if place != self._me]
        size = self._slices[self._me][index]
        coming = {i: self._out.new_empty(size, self._heads[i % len(self._heads)], self._out.shape[2]) for i in others}
        going = {i: self._out[self._q_rows.of(i, index)] for i in others}
        return list(coming.values()), Transfers(going, coming, self._mesh.sequence, "ulysses")

    def _attend(self, merged: tuple[Tensor, Tensor] | None, q_RhD: Tensor, rows: slice) -> tuple[Tensor, Tensor] | None:
        k_RhD, v_RhD = self._kv[rows].unbind(1)
        return attend_more(merged, q_RhD.unsqueeze(0), k_RhD.unsqueeze(0), v_RhD.unsqueeze(0), self._kernel)

    def _store(self, rows: slice, merged: tuple[Tensor, Tensor] | None) -> None:
        if merged is not None:
            self._out[rows] = merged[0][0]


def _rows(merged: tuple[Tensor, Tensor] | None, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
    return None if merged is None else (merged[0][:, start:stop], merged[1][:, start:stop])


class Rows:
    """Where each slice of each rank lies in a buffer: own tokens, then others' early slices, then late ones."""

    def __init__(self, slices: list[tuple[int, ...]], own: int, places: range, num_early: int) -> None:
        """`slices`: tokens of each slice of each place of the sequence; the buffer holds those of `places`."""
        row = sum(slices[own])
        self.num_early = row
        self._starts: dict[tuple[int, int], slice] = {}
        for index in range(len(slices[own])):
            if index == num_early:
                self.num_early = row
            for place in places:
                if place != own:
                    self._starts[place, index] = slice(row, row + slices[place][index])
                    row += slices[place][index]
        self.num_all = row

    def of(self, place: int, index: int) -> slice:
        """The rows of a slice of another rank."""
        return self._starts[place, index]
