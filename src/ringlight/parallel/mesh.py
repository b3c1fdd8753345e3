"""ParallelMesh: whom this rank can talk to, along each axis of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch.distributed as dist

from ringlight.core.layout import ParallelLayout


@dataclass(frozen=True)
class Axis:
    """The ranks that differ from this one along one axis only: `ranks` are their global numbers, in order."""

    ranks: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        return len(self.ranks)


ALONE = Axis(ranks=(0,), rank=0, group=None)


@dataclass(frozen=True)
class ParallelMesh:
    """One rank's place in a layout: guidance branches outermost, then the ring, Ulysses ranks side by side.

    Ulysses moves more messages, so its ranks are neighbours (inside a node); ring ranks are strided (across nodes).
    `sequence` is ring x Ulysses: the ranks that share one sequence.
    """

    layout: ParallelLayout
    cfg: Axis
    ring: Axis
    ulysses: Axis
    sequence: Axis

    @classmethod
    def alone(cls) -> Self:
        """The mesh of a single rank, which talks to nobody."""
        return cls(ParallelLayout(), ALONE, ALONE, ALONE, ALONE)

    @classmethod
    def build(cls, layout: ParallelLayout) -> Self:
        """The mesh of this rank of an initialised process group. Every rank calls it, with the same layout."""
        assert dist.get_world_size() == layout.num_ranks, "one process per rank of the layout"
        rank, place = dist.get_rank(), coordinates(dist.get_rank(), layout)
        axes = {}
        for name, varied in (("cfg", {0}), ("ring", {1}), ("ulysses", {2}), ("sequence", {1, 2})):
            for ranks in _lines(layout, varied):
                # Groups are made by all ranks in the same order, whether they belong to them or not.
                group = dist.new_group(list(ranks)) if len(ranks) > 1 else None
                if rank in ranks:
                    axes[name] = Axis(ranks, ranks.index(rank), group)
        assert (axes["cfg"].rank, axes["ring"].rank, axes["ulysses"].rank) == place
        return cls(layout, **axes)


def coordinates(rank: int, layout: ParallelLayout) -> tuple[int, int, int]:
    """(guidance branch, ring rank, Ulysses rank) of a global rank."""
    rest, ulysses = divmod(rank, layout.ulysses)
    branch, ring = divmod(rest, layout.ring)
    return branch, ring, ulysses


def _lines(layout: ParallelLayout, varied: set[int]) -> list[tuple[int, ...]]:
    """Global ranks grouped so that within a group only the coordinates in `varied` differ."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank in range(layout.num_ranks):
        place = coordinates(rank, layout)
        fixed = tuple(value for position, value in enumerate(place) if position not in varied)
        groups.setdefault(fixed, []).append(rank)
    return [tuple(ranks) for ranks in groups.values()]
