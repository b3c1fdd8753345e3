"""SequenceShard: which tokens of one request this rank holds. Uneven, unpadded, known without asking."""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from ringlight.core.layout import split_sizes
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import gather_parts
from ringlight.parallel.mesh import ParallelMesh


class SequenceShard:
    """The tokens start..stop of a sequence of `num_tokens`, by this rank's place on the mesh.

    Consecutive tokens lie on consecutive sequence ranks, so that each ring rank's Ulysses group holds one run of them.
    """

    def __init__(self, mesh: ParallelMesh, num_tokens: int) -> None:
        self.mesh = mesh
        self.num_tokens = num_tokens
        self.sizes = split_sizes(num_tokens, mesh.sequence.size)
        ends = list(accumulate(self.sizes))
        self.stop = ends[mesh.sequence.rank]
        self.start = self.stop - self.sizes[mesh.sequence.rank]

    @property
    def ulysses_sizes(self) -> tuple[int, ...]:
        """Tokens of each rank of this rank's Ulysses group."""
        begin = self.mesh.ring.rank * self.mesh.ulysses.size
        return self.sizes[begin : begin + self.mesh.ulysses.size]

    @property
    def ring_sizes(self) -> tuple[int, ...]:
        """Tokens of the whole Ulysses group of each ring rank."""
        width = self.mesh.ulysses.size
        return tuple(sum(self.sizes[begin : begin + width]) for begin in range(0, len(self.sizes), width))

    def split(self, x: Tensor, dim: int) -> Tensor:
        """View of this rank's part in a tensor that has all tokens along `dim`."""
        return x.narrow(dim, self.start, self.stop - self.start)

    @collective
    def gather(self, x_BSC: Tensor) -> Tensor:
        """Gather all tokens (B, num_tokens, C), on every sequence rank, from each one's own (B, S, C)."""
        return gather_parts(x_BSC, self.sizes, self.mesh.sequence)
