"""Attention over real ranks against plain attention, at lengths that hurt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.kernels.attention import kernel as kernels
from ringlight.kernels.attention.kernel import AttentionKernel, attend_more, load_kernel, merge
from ringlight.kernels.attention.reference import Reference
from ringlight.parallel import ahead, attention
from ringlight.parallel.ahead import Ahead, Route
from ringlight.parallel.attention import attend
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.shard import SequenceShard
from tests.parallel.ranks import on_ranks

LENGTHS = [1, 2, 3, 5, 8, 13, 64, 175]
SPLITS = [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1), (1, 6), (2, 3), (3, 2), (6, 1)]
QUICK_SPLITS = [(1, 1), (1, 2), (2, 1)]
SLICES = (1, 2, 4, 8)
HEADS, WIDTH = 7, 16

Work = Callable[[ParallelMesh], Tensor]


def qkv(length: int) -> list[Tensor]:
    """q, k, v (1, S, H, D) of a whole sequence."""
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(1, length, HEADS, WIDTH, generator=generator) for _ in range(3)]


def attended(lengths: list[int], num_slices: int = 1) -> Work:
    """Work for a rank: attention at each length, gathered, all lengths joined."""

    def work(mesh: ParallelMesh) -> Tensor:
        parts = []
        for length in lengths:
            shard = SequenceShard(mesh, length)
            out = attend(*(shard.split(x, 1) for x in qkv(length)), shard, load_kernel("flash_cpu"), num_slices)
            parts.append(shard.gather(out.flatten(2)))
        return torch.cat(parts, dim=1)

    return work


def exact(lengths: list[int]) -> Tensor:
    return torch.cat([Reference()(*(x.double() for x in qkv(n)))[0].flatten(2) for n in lengths], dim=1)


@pytest.mark.parametrize(
    ("ulysses", "ring"),
    [pytest.param(*split, marks=() if split in QUICK_SPLITS else pytest.mark.slow) for split in SPLITS],
    ids=lambda degree: str(degree),
)
def test_any_split_within_2e_6_of_plain_attention(ulysses: int, ring: int) -> None:
    """In any number of slices, one after another over the same ranks."""

    def work(mesh: ParallelMesh) -> Tensor:
        return torch.stack([attended(LENGTHS, num_slices)(mesh) for num_slices in SLICES])

    results = on_ranks(ParallelLayout(ulysses=ulysses, ring=ring), work)
    expected = exact(LENGTHS)
    for result in results:
        assert torch.equal(result, results[0]), "every rank has gathered the same"
        for num_slices, out in zip(SLICES, result, strict=True):
            torch.testing.assert_close(
                out.double(), expected, rtol=0, atol=2e-6, msg=lambda said, n=num_slices: f"{n} slices: {said}"
            )


@pytest.mark.parametrize("ulysses", [2, 3, 4])
def test_ulysses_is_bitwise_one_rank(ulysses: int) -> None:
    (alone,) = on_ranks(ParallelLayout(), attended(LENGTHS))
    for result in on_ranks(ParallelLayout(ulysses=ulysses), attended(LENGTHS)):
        assert torch.equal(result, alone)


def stale(mesh: ParallelMesh) -> Tensor:
    """A planted bug: the keys of the first hop are used at every hop."""
    first: list[Tensor] = []

    def with_first(merged: object, q: Tensor, k: Tensor, v: Tensor, kernel: AttentionKernel) -> object:
        first.extend([k, v])
        return attend_more(merged, q, first[0], first[1], kernel)  # type: ignore[arg-type]

    attention.attend_more = with_first  # type: ignore[assignment]
    return attended([64])(mesh)


def averaged(mesh: ParallelMesh) -> Tensor:
    """A planted bug: parts weigh alike, whatever their scores."""

    def average(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
        return (out_a + out_b) / 2, merge(out_a, lse_a, out_b, lse_b)[1]

    kernels.merge = average
    return attended([64])(mesh)


def swapped(mesh: ParallelMesh) -> Tensor:
    """A planted bug: the parts are gathered in the wrong order."""
    shard = SequenceShard(mesh, 64)
    out = attend(*(shard.split(x, 1) for x in qkv(64)), shard, load_kernel("flash_cpu"))
    return shard.gather(out.flatten(2)).roll(32, dims=1)


def padded(mesh: ParallelMesh) -> Tensor:
    """A planted bug: one pad token at the end takes part in attention without a mask."""
    shard = SequenceShard(mesh, 65)
    whole = [torch.cat([x, torch.zeros(1, 1, HEADS, WIDTH)], dim=1) for x in qkv(64)]
    out = attend(*(shard.split(x, 1) for x in whole), shard, load_kernel("flash_cpu"))
    return shard.gather(out.flatten(2))[:, :64]


def too_early(mesh: ParallelMesh) -> Tensor:
    """A planted bug: each slice is sent before its keys and values are written."""
    original = ahead.Ahead._start

    def early(self: Ahead, route: Route, index: int, by_group: list[Tensor] | None) -> Transfers:
        if by_group is None:
            return original(self, route, index, by_group)
        (rows,) = by_group
        written = rows.clone()
        rows.zero_()
        transfers = original(self, route, index, [rows])
        transfers.wait()
        rows.copy_(written)
        return transfers

    ahead.Ahead._start = early  # type: ignore[method-assign]
    return attended([64], num_slices=4)(mesh)


def unawaited(mesh: ParallelMesh) -> Tensor:
    """A planted bug: late slices are attended to before they have arrived."""
    original = ahead.Ahead._attend

    def attend_early(self: Ahead, merged: object, q: Tensor, rows: slice) -> object:
        late = self._kv[self._kv_rows.num_early :].clone()
        self._kv[self._kv_rows.num_early :] = 0
        out = original(self, merged, q, rows)  # type: ignore[arg-type]
        self._kv[self._kv_rows.num_early :] = late
        return out

    ahead.Ahead._attend = attend_early  # type: ignore[method-assign, assignment]
    return attended([64], num_slices=4)(mesh)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [stale, averaged, swapped, padded, too_early, unawaited])
def test_planted_bugs_show(bug: Work) -> None:
    result, *_ = on_ranks(ParallelLayout(ring=2), bug)
    assert (result.double() - exact([64])).abs().max() > 1e-4


def test_sizes_are_even_to_one_and_never_padded() -> None:
    assert split_sizes(8190, 4) == (2048, 2048, 2047, 2047)
    assert split_sizes(3, 5) == (1, 1, 1, 0, 0)
    assert split_sizes(24, 5) == (5, 5, 5, 5, 4)
    for total in range(40):
        for parts in range(1, 9):
            sizes = split_sizes(total, parts)
            assert sum(sizes) == total
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("layout", "sequences"),
    [
        (ParallelLayout(cfg=2, ulysses=2, ring=2), [(0, 1, 2, 3)] * 4 + [(4, 5, 6, 7)] * 4),
        (ParallelLayout(ring=3), [(0, 1, 2)] * 3),
    ],
    ids=lambda value: value.name if isinstance(value, ParallelLayout) else "",
)
def test_mesh_puts_ulysses_side_by_side(layout: ParallelLayout, sequences: list[tuple[int, ...]]) -> None:
    def places(mesh: ParallelMesh) -> Tensor:
        axes = (mesh.cfg, mesh.ring, mesh.ulysses)
        return torch.tensor([axis.rank for axis in axes] + list(mesh.sequence.ranks))

    for rank, place in enumerate(on_ranks(layout, places)):
        branch, ring, ulysses, *sequence = place.tolist()
        assert (branch * layout.ring + ring) * layout.ulysses + ulysses == rank
        assert tuple(sequence) == sequences[rank]
