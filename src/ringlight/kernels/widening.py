"""WidenedLinear: a linear map whose weight may be held in eight bits, and is widened while it is used."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor, nn

from ringlight.core.eight_bit import EightBit

PIECE_NUMBERS = 2**23  # that are in float32 at once
HELD = ("numbers", "scale")  # the parameters in the place of a weight that is held in eight bits


class LinearMap(Protocol):
    """A linear map as data. `held`: how its weight lies in memory, None: as it is computed with."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def has_bias(self) -> bool: ...
    @property
    def held(self) -> EightBit | None: ...


def widened(numbers: Tensor, scale: Tensor) -> Tensor:
    """Widen numbers of eight bits to (rows, ...) in float32.

    They are multiplied by the scale of their row, (rows, 1, ...), or by those of the groups of a row, (rows, groups).
    """
    if scale.shape[1:].numel() == 1:
        return numbers.float().mul_(scale)
    wide = numbers.float()
    wide.unflatten(1, (scale.shape[1], -1)).mul_(scale.float().unsqueeze(2))
    return wide


class WidenedLinear(nn.Linear):
    """Linear map y = x W^T + b.

    If W is held in eight bits its parameters are `numbers` and `scale`, and `weight` is a tensor that exists from
    `widen` to `narrow`: W in the dtype of the products, rounded once from float32.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, held: EightBit | None = None) -> None:
        super().__init__(in_features, out_features, bias)
        self.held = held
        if held is not None:
            empty = torch.empty(out_features, in_features, dtype=getattr(torch, held.dtype), device=self.weight.device)
            del self.weight
            self.numbers = nn.Parameter(empty, requires_grad=False)
            scales = (out_features, held.num_scales(in_features))
            scale = torch.empty(scales, dtype=getattr(torch, held.scale_dtype), device=empty.device)
            self.scale = nn.Parameter(scale, requires_grad=False)
            self.weight = torch.empty(0, device=empty.device)

    @classmethod
    def of(cls, layer: LinearMap) -> Self:
        """Build the module of a linear map in a list of layers."""
        return cls(layer.inputs, layer.outputs, layer.has_bias, layer.held)

    def compute_in(self, dtype: torch.dtype, device: torch.device) -> None:
        """Set the dtype and device to which a weight in eight bits is widened."""
        if self.held is not None:
            self.weight = torch.empty(0, dtype=dtype, device=device)

    def widen(self) -> None:
        """Make the widened weight."""
        if self.held is not None:
            wide = torch.empty(self.numbers.shape, dtype=self.weight.dtype, device=self.numbers.device)
            rows = max(1, PIECE_NUMBERS // self.in_features)
            pieces = (each.split(rows) for each in (self.numbers, self.scale, wide))
            for numbers, scale, piece in zip(*pieces, strict=True):
                piece.copy_(widened(numbers, scale))
            self.weight = wide

    def narrow(self) -> None:
        """Free the widened weight."""
        if self.held is not None:
            self.weight = self.weight.new_empty(0)
