"""Bands: the rows of a frame over many ranks, and the edge rows (halos) that neighbours need of each other.

Rows are counted in latent rows; at a level of the VAE that has `scale` times more of them, a band has `scale` times
more too. Ranks beyond the number of rows have an empty band: they take no part in halos, and have nothing to gather.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import torch
from torch import Tensor

from ringlight.core.layout import split_sizes
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.link import Kind, Link
from ringlight.parallel.mesh import Axis


class Bands:
    """Division of `rows` latent rows among the ranks of an axis, top down: larger bands first, empty ones last.

    `sizes` are all ranks' rows, `size` this rank's, which begin at row `start`. `above` and `below` are the ranks of
    the bands that touch this one, `holders` those of all bands that are not empty.
    """

    def __init__(self, rows: int, axis: Axis) -> None:
        self.axis = axis
        self.sizes = split_sizes(rows, axis.size)
        self.size = self.sizes[axis.rank]
        self.start = sum(self.sizes[: axis.rank])
        self.holders = range(min(rows, axis.size))
        self.above = axis.rank - 1 if self.size and axis.rank > 0 else None
        self.below = axis.rank + 1 if self.size and axis.rank + 1 in self.holders else None

    @classmethod
    def alone(cls, rows: int) -> Self:
        """All rows on the only rank there is."""
        return cls(rows, Axis((0,), 0, Link()))

    @property
    def are_split(self) -> bool:
        """Whether more than one rank has rows."""
        return len(self.holders) > 1

    def own(self, x: Tensor, dim: int, scale: int = 1) -> Tensor:
        """View of this rank's rows in a tensor that has all of them along `dim`."""
        return x.narrow(dim, self.start * scale, self.size * scale)


class Halo:
    """Edge rows under way between neighbouring bands: started when made, there after `wait`."""

    @collective
    def __init__(self, first: Tensor, last: Tensor | None, bands: Bands) -> None:
        """Start the exchange: contiguous `first` rows go to the band above, `last` ones below, alike on all ranks.

        Without `last`, rows travel upwards only and none come from above.
        """
        self._above, self._below = first.new_zeros(2, *first.shape)
        sends, receives = {}, {}
        if bands.above is not None:
            sends[bands.above] = first
        if bands.below is not None:
            receives[bands.below] = self._below
        if last is not None and bands.above is not None:
            receives[bands.above] = self._above
        if last is not None and bands.below is not None:
            sends[bands.below] = last
        self._transfers = Transfers(sends, receives, bands.axis, "halo")

    def wait(self) -> tuple[Tensor, Tensor]:
        """(above, below): the rows next to this band, zeros beyond the frame."""
        self._transfers.wait()
        return self._above, self._below


class Gathering:
    """Bands under way to the ranks that need all of them: started when made, joined by `wait`."""

    @collective
    def __init__(
        self, band: Tensor, bands: Bands, dim: int, receivers: Collection[int], kind: Kind, scale: int = 1
    ) -> None:
        """Start the exchange.

        `band` has this rank's rows along `dim`. To be made by all `receivers` and all ranks with rows alike.
        """
        rank = bands.axis.rank
        self._dim = dim
        self._parts: dict[int, Tensor] = {}
        band = band.contiguous()
        if rank in receivers:
            shape = list(band.shape)
            for holder in bands.holders:
                shape[dim] = bands.sizes[holder] * scale
                self._parts[holder] = band if holder == rank else band.new_empty(shape)
        sends = {receiver: band for receiver in receivers if receiver != rank}
        receives = {holder: part for holder, part in self._parts.items() if holder != rank}
        self._transfers = Transfers(sends, receives, bands.axis, kind)

    def wait(self) -> Tensor | None:
        """Wait for all rows, joined; None if this rank is no receiver."""
        self._transfers.wait()
        parts, self._parts = list(self._parts.values()), {}
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self._dim)
