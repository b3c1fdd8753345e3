"""ParallelMesh: whom this rank can talk to, along each axis of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ringlight.core.layout import ParallelLayout
from ringlight.parallel.link import Link


@dataclass(frozen=True)
class Axis:
    """The ranks that differ from this one along one axis only: `ranks` are their global numbers, in order."""

    ranks: tuple[int, ...]
    rank: int
    link: Link

    @property
    def size(self) -> int:
        return len(self.ranks)


@dataclass(frozen=True)
class ParallelMesh:
    """One rank's place in a layout: guidance branches outermost, then the ring, Ulysses ranks side by side.

    Ulysses moves more messages, so its ranks are neighbours (inside a node); ring ranks are strided (across nodes).
    `sequence` is ring x Ulysses: the ranks that share one sequence. `world` are all ranks. All traffic is
    point-to-point over one group, so a mesh is arithmetic: ranks may use another layout for every request.
    """

    layout: ParallelLayout
    cfg: Axis
    ring: Axis
    ulysses: Axis
    sequence: Axis
    world: Axis

    @classmethod
    def alone(cls) -> Self:
        """Mesh of a single rank, which talks to nobody."""
        return cls.of(ParallelLayout(), 0, Link())

    @classmethod
    def of(cls, layout: ParallelLayout, rank: int, link: Link) -> Self:
        """The mesh of a global rank."""
        place = coordinates(rank, layout)

        def axis(*varied: int) -> Axis:
            def differs_along_axis_only(other: int) -> bool:
                return all(
                    a == b
                    for i, (a, b) in enumerate(zip(coordinates(other, layout), place, strict=True))
                    if i not in varied
                )

            ranks = tuple(filter(differs_along_axis_only, range(layout.num_ranks)))
            return Axis(ranks, ranks.index(rank), link)

        return cls(layout, cfg=axis(0), ring=axis(1), ulysses=axis(2), sequence=axis(1, 2), world=axis(0, 1, 2))


def coordinates(rank: int, layout: ParallelLayout) -> tuple[int, int, int]:
    """(guidance branch, ring rank, Ulysses rank) of a global rank."""
    rest, ulysses = divmod(rank, layout.ulysses)
    branch, ring = divmod(rest, layout.ring)
    return branch, ring, ulysses
