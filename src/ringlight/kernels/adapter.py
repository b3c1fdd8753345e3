"""Adapter: what LoRAs (arXiv 2106.09685) add to one weight: merged into it, or on the fly to what is computed with it.

A merge is in float32, from the weight as it was loaded, and rounded once. Runs of rows follow from the shape alone, so
that the same device makes the same bits wherever the weight lies at the moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ringlight.core.portions import MERGED_NUMBERS

SAMPLED = (32, 1024)  # rows and columns of a weight, about so many, that tell of all of it
ALL = slice(None)


class LowRank(NamedTuple):
    """A product that is added to a weight, of (outputs, rank) and (rank, inputs), as their file has them."""

    up: Tensor
    down: Tensor
    factor: float

    def part(self, rows: slice, columns: slice = ALL) -> Tensor:
        """Rows and columns of the addition, in float32."""
        up, down = self.up.flatten(1)[rows], self.down.flatten(1)[:, columns]
        return (up.float() @ down.float()).mul_(self.factor)

    def to(self, device: torch.device) -> LowRank:
        """The same on a device."""
        return LowRank(self.up.to(device), self.down.to(device), self.factor)


class FullRank(NamedTuple):
    """A whole tensor that is added to one of as many values."""

    values: Tensor
    factor: float

    def part(self, rows: slice, columns: slice = ALL) -> Tensor:
        """Rows and columns of the addition, in float32."""
        return as_rows(self.values)[rows, columns].float().mul(self.factor)

    def to(self, device: torch.device) -> FullRank:
        """The same on a device."""
        return FullRank(self.values.to(device), self.factor)


Addend = LowRank | FullRank


class Excerpt(NamedTuple):
    """Rows and columns of a weight."""

    rows: slice
    columns: slice


class OnTheFly(NamedTuple):
    """Addition to the outputs of a linear map from `start` on: x down^T up^T.

    `down` is (rank, inputs) and `up` (outputs, rank), in the dtype of the products; factors and LoRAs are merged into
    them.
    """

    start: int
    up: Tensor
    down: Tensor

    def add_(self, y: Tensor, x: Tensor) -> None:
        """Add it to y (..., outputs), given x (..., inputs)."""
        outputs = y.flatten(0, -2)[:, self.start : self.start + len(self.up)]
        outputs.addmm_(x.flatten(0, -2) @ self.down.T, self.up.T)


class Adapter(NamedTuple):
    """All that is added to one weight, in this order."""

    addends: tuple[Addend, ...]

    @property
    def has_whole(self) -> bool:
        """Whether part of it is no product, which can only be merged."""
        return any(isinstance(each, FullRank) for each in self.addends)

    def to(self, device: torch.device) -> Adapter:
        """The same on a device."""
        return Adapter(tuple(each.to(device) for each in self.addends))

    def merge_(self, weight: Tensor) -> None:
        """Add it to a weight, which is rounded once. Adapter and weight lie on the device that computes this."""
        rows = as_rows(weight)
        step = max(1, MERGED_NUMBERS // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            which = slice(start, start + step)
            rows[which] = rows[which].float().add_(self._sum(which, ALL))

    def size(self, base: Tensor, excerpt: Excerpt) -> float:
        """Size relative to a weight of which `base` is this excerpt, in float32.

        All lies on the host, so that every device finds the same to the bit.
        """
        return _ratio(self._sum(*excerpt), base)

    def lost(self, base: Tensor, excerpt: Excerpt, dtype: torch.dtype) -> float:
        """Share of it that rounding changes when merged into a weight of this dtype, estimated from an excerpt."""
        added = self._sum(*excerpt)
        merged = (base + added).to(dtype).float()
        return _ratio(merged - base - added, added)

    def on_the_fly(self, start: int, dtype: torch.dtype) -> OnTheFly:
        """Addition to products, from output `start` on. All of it must be products."""
        products = [each for each in self.addends if isinstance(each, LowRank)]
        assert len(products) == len(self.addends), "what is no product is merged"
        up = torch.cat([each.up.flatten(1).float() * each.factor for each in products], dim=1)
        down = torch.cat([each.down.flatten(1).float() for each in products])
        return OnTheFly(start, up.to(dtype), down.to(dtype))

    def _sum(self, rows: slice, columns: slice) -> Tensor:
        first, *others = (each.part(rows, columns) for each in self.addends)
        for other in others:
            first.add_(other)
        return first


def joined(adapters: Iterable[Adapter]) -> Adapter:
    """Join the additions of several to the same weight."""
    return Adapter(tuple(addend for adapter in adapters for addend in adapter.addends))


def excerpt_of(weight: Tensor) -> Excerpt:
    """Sample of a weight, (rows, values of each), that represents all of it."""
    rows, columns = (max(1, size // most) for size, most in zip(weight.shape, SAMPLED, strict=True))
    return Excerpt(slice(None, None, rows), slice(None, None, columns))


def as_rows(tensor: Tensor) -> Tensor:
    """View of a tensor as (rows, values of each); of a vector every value is a row."""
    return tensor.view(len(tensor), -1)


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Ratio of two norms; 0 if the whole is 0."""
    size = float(whole.double().norm())
    return float(part.double().norm()) / size if size else 0.0
