"""Ahead: attention over many ranks with its data sent slice by slice, as soon as each slice exists.

Everything between one self-attention and the next works token by token. Done on slices of a rank's tokens, it lets each
slice's q, k and v of the next block travel while the following slices are computed, and the last ones while attention
to the first runs. Exact; results differ from `Whole`'s by the order of sums.

Every rank sends the keys and values of its tokens straight to all ranks that need them: bytes are those of a ring
inside Ulysses, and all of a block's keys (for this rank's heads) are held at once. Rows of the buffers stand in the
order in which they are expected, which attention does not mind: own tokens, then the early slices of all others, then
the last ones. Attention to own keys waits for nothing; that to early rows runs while the last ones still travel.

S tokens of this rank, R rows of a buffer, H heads, D head width, h heads of this rank (H dealt over Ulysses ranks).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ringlight.core.layout import split_sizes
from ringlight.core.portions import slice_sizes
from ringlight.kernels.attention.kernel import AttentionKernel, attend_more
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.link import Kind
from ringlight.parallel.shard import SequenceShard


class Route(NamedTuple):
    """Route of one kind of message of a slice: its destination and source, and the rows of the buffer that it fills."""

    kind: Kind
    places: list[int]
    buffer: Tensor
    rows: Rows


class Ahead:
    """Attention of one block after another, `num_slices` slices at a time. A `SequenceAttention`."""

    def __init__(self, shard: SequenceShard, kernel: AttentionKernel, num_slices: int) -> None:
        self._kernel = kernel
        self._mesh = shard.mesh
        self._slices = [slice_sizes(size, num_slices) for size in shard.sizes]  # of each rank of the sequence
        self._num_early = num_slices - 1
        self._me = shard.mesh.sequence.rank
        ends = accumulate(self._slices[self._me], initial=0)
        self.parts = tuple(slice(start, stop) for start, stop in pairwise(ends))
        width = shard.mesh.ulysses.size
        first = shard.mesh.ring.rank * width
        self._group = range(first, first + width)  # the Ulysses group's places in the sequence
        self._kv_rows = Rows(self._slices, self._me, range(len(self._slices)), self._num_early)
        self._q_rows = Rows(self._slices, self._me, self._group, self._num_early)
        self._heads: tuple[int, ...] = ()
        self._kv = self._q = torch.empty(0)
        self._own_out = torch.empty(0)
        self._others_out = torch.empty(0)  # for others' tokens, which follow our own in the rows of q
        self._routes: list[Route] = []
        self._num_offered = 0
        self._arriving: list[list[Transfers]] = []  # by slice
        self._departing: list[Transfers] = []
        self._returning: list[tuple[list[Tensor], Transfers]] = []

    def runs(self, part: slice, longest: int, most: int) -> list[slice]:
        return [part]

    def offer(self, run: slice, q_BSHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> None:
        if not self._heads:
            self._allocate(k_BSHD)
        index, q_SHD, k_SHD, v_SHD = self._num_offered, q_BSHD[0], k_BSHD[0], v_BSHD[0]
        part = self.parts[index]
        assert run == part, "parts are offered whole and in order"
        self._num_offered += 1
        own = self._mesh.ulysses.rank
        mine = slice(sum(self._heads[:own]), sum(self._heads[: own + 1]))
        self._kv[part, 0], self._kv[part, 1], self._q[part] = k_SHD[:, mine], v_SHD[:, mine], q_SHD[:, mine]
        if len(self._heads) == 1:
            messages = [[self._kv[part]]]
        elif self._mesh.ring.size == 1:
            messages = [self._by_group(k_SHD, v_SHD, q_SHD)]
        else:
            kv = self._by_group(k_SHD, v_SHD)
            messages = [kv, kv, self._by_group(q_SHD)]
        if self._receives_first:
            if index == 0:
                self._expect()
            self._departing += [self._start(r, index, m) for r, m in zip(self._routes, messages, strict=True)]
        else:
            self._arriving.append([self._start(r, index, m) for r, m in zip(self._routes, messages, strict=True)])

    def attend(self) -> None:
        assert self._num_offered == len(self.parts), "all parts are offered before attend"
        self._num_offered = 0
        own, early_kv, early_q = self.parts[-1].stop, self._kv_rows.num_early, self._q_rows.num_early
        merged = self._attend(None, self._q[:own], slice(0, own))
        self._wait(0, self._num_early)
        merged = self._attend(merged, self._q[:own], slice(own, early_kv))
        others = self._attend(None, self._q[own:early_q], slice(0, early_kv))
        self._wait(self._num_early, len(self.parts))
        late = slice(early_kv, None)
        if len(self._group) > 1:  # what goes back to others first, so that it travels while our own is computed
            others = self._attend(others, self._q[own:early_q], late)
            latest = self._attend(None, self._q[early_q:], slice(None))
            parts = (others, self._q[own:early_q]), (latest, self._q[early_q:])
            self._others_out = torch.cat([self._rounded(*part) for part in parts])
            self._returning = [self._send_back(index) for index in range(len(self.parts))]
        self._own_out = self._rounded(self._attend(merged, self._q[:own], late), self._q[:own])
        for transfer in self._departing:
            transfer.wait()
        self._departing = []

    def outputs(self, is_last: bool) -> Iterator[tuple[slice, Tensor]]:
        if self._receives_first and not is_last:
            self._expect()
        for index, part in enumerate(self.parts):
            out_SHD = self._own_out[part]
            if self._returning:
                others, transfers = self._returning[index]
                transfers.wait()
                own = self._mesh.ulysses.rank
                out_SHD = torch.cat([*others[:own], out_SHD, *others[own:]], dim=1)
            yield part, out_SHD.unsqueeze(0)
        self._returning = []
        self._own_out = self._others_out = torch.empty(0)

    def settle(self) -> None:
        returning = [transfers for _, transfers in self._returning]
        for transfers in (*chain(*self._arriving), *self._departing, *returning):
            transfers.wait()

    @collective
    def _expect(self) -> None:
        """Start the receives of the next block's slices, unless that has been done."""
        if not self._arriving:
            self._arriving = [[self._start(r, i, None) for r in self._routes] for i in range(len(self.parts))]

    @property
    def _receives_first(self) -> bool:
        """Whether receives of all slices are started before the first send.

        With gloo a message leaves when both ends know of each other; NCCL would never come to a send that stands behind
        such a receive.
        """
        return self._mesh.sequence.link.is_gloo

    def _allocate(self, like_BSHD: Tensor) -> None:
        num_heads, width = like_BSHD.shape[2:]
        self._heads = split_sizes(num_heads, self._mesh.ulysses.size)
        heads = self._heads[self._mesh.ulysses.rank]
        everyone = range(self._mesh.sequence.size)
        inside = [place for place in everyone if place in self._group and place != self._me]
        outside = [place for place in everyone if place not in self._group]
        num_kv, num_q = self._kv_rows.num_all, self._q_rows.num_all
        if self._mesh.ring.size == 1:
            kvq = like_BSHD.new_empty(num_kv, 3, heads, width)
            self._kv, self._q = kvq[:, :2], kvq[:, 2]
            self._routes = [Route("ulysses", inside, kvq, self._kv_rows)]
        else:
            self._kv, q = like_BSHD.new_empty(num_kv, 2, heads, width), like_BSHD.new_empty(num_q, 1, heads, width)
            self._q = q[:, 0]
            self._routes = [Route("ring", outside, self._kv, self._kv_rows)]
            if inside:
                self._routes += [
                    Route("ulysses", inside, self._kv, self._kv_rows),
                    Route("ulysses", inside, q, self._q_rows),
                ]

    def _by_group(self, *tensors_SHD: Tensor) -> list[Tensor]:
        """Split tensors of a slice, side by side (S, n, h, D), into the heads of each rank of the Ulysses group."""
        by_group = zip(*(x.split(self._heads, dim=1) for x in tensors_SHD), strict=True)
        return [torch.stack(tensors, dim=1) for tensors in by_group]

    @collective
    def _start(self, route: Route, index: int, by_group: list[Tensor] | None) -> Transfers:
        """Send a slice (None: nothing) and receive those of the others, unless those receives are started first."""
        sends = {} if by_group is None else {place: by_group[place % len(self._heads)] for place in route.places}
        receives = {place: route.buffer[route.rows.of(place, index)] for place in route.places}
        if self._receives_first and by_group is not None:
            receives = {}
        return Transfers(sends, receives, self._mesh.sequence, route.kind)

    def _wait(self, start: int, stop: int) -> None:
        """Wait for the slices start..stop of the others."""
        for transfers in self._arriving[start:stop]:
            for transfer in transfers:
                transfer.wait()
        if stop == len(self.parts):
            self._arriving = []

    @collective
    def _send_back(self, index: int) -> tuple[list[Tensor], Transfers]:
        """Send outputs of the others' slices to them, and receive those of our own slice, by Ulysses rank."""
        others = [place for place in self._group if place != self._me]
        size = self._slices[self._me][index]
        like, heads = self._others_out, len(self._heads)
        coming = {i: like.new_empty(size, self._heads[i % heads], like.shape[2]) for i in others}
        rows = {i: self._q_rows.of(i, index) for i in others}
        own = self.parts[-1].stop
        going = {i: like[found.start - own : found.stop - own] for i, found in rows.items()}
        return list(coming.values()), Transfers(going, coming, self._mesh.sequence, "ulysses")

    def _attend(self, merged: tuple[Tensor, Tensor] | None, q_RhD: Tensor, rows: slice) -> tuple[Tensor, Tensor] | None:
        k_RhD, v_RhD = self._kv[rows].unbind(1)
        return attend_more(merged, q_RhD.unsqueeze(0), k_RhD.unsqueeze(0), v_RhD.unsqueeze(0), self._kernel)

    def _rounded(self, merged: tuple[Tensor, Tensor] | None, q_RhD: Tensor) -> Tensor:
        """The output for these queries, in their dtype."""
        return torch.zeros_like(q_RhD) if merged is None else merged[0][0].to(q_RhD.dtype)


class Rows:
    """Rows of each slice of each rank in a buffer: own tokens, then others' early slices, then late ones."""

    def __init__(self, slices: list[tuple[int, ...]], own: int, places: range, num_early: int) -> None:
        """Lay out the rows. `slices`: tokens of each slice of each rank; the buffer holds those of `places`."""
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
