"""Linear: a linear map that takes the fastest matrix product of its device."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

ONEDNN = torch.ops.mkldnn


class LinearMap(Protocol):
    """A linear map as data."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...


class Linear(nn.Linear):
    """y = x W^T + b. In float32 on a CPU it runs in oneDNN with its weight packed once, which took 0.80-0.86 of the
    time of torch's own choice on one core (docs/log.md); everywhere else it is torch's.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self._packed: Tensor | None = None

    @classmethod
    def of(cls, layer: LinearMap) -> Linear:
        """The linear map of a list of layers."""
        return cls(layer.inputs, layer.outputs)

    def optimise_layout(self) -> None:
        """Pack the weight where that pays. Call once, after loading: the plain weight is given up for it."""
        weight = self.weight.data
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            self._packed = ONEDNN._reorder_linear_weight(weight)
            self.weight.data = weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = ONEDNN._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def with_gelu(self, x: Tensor) -> Tensor:
        """The tanh-approximated GELU of y, without a second tensor of y's size."""
        out: Tensor
        if self._packed is None:
            out = torch.ops.aten.gelu_(F.linear(x, self.weight, self.bias), approximate="tanh")
        else:
            out = ONEDNN._linear_pointwise(x, self._packed, self.bias, "gelu", [], "tanh")
        return out
