"""Linear: a linear map that takes the fastest matrix product of its device."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ringlight.core.eight_bit import EightBit
from ringlight.kernels.adapter import OnTheFly
from ringlight.kernels.widening import WidenedLinear

ONEDNN = torch.ops.mkldnn


class Linear(WidenedLinear):
    """Linear map y = x W^T + b.

    In float32 on a CPU it runs in oneDNN, which took 0.80-0.86 of the time of torch's own choice on one core with its
    weight packed once (docs/log.md), and gives the same to the bit with a plain one; everywhere else it is torch's.
    What LoRAs add on the fly is `added`, before the GELU where there is one.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, held: EightBit | None = None) -> None:
        super().__init__(in_features, out_features, bias, held)
        self.added: tuple[OnTheFly, ...] = ()
        self._packed: Tensor | None = None

    def lay_out(self) -> None:
        """Pack the weight if that pays: the plain one is given up for it. A widened one is used as it is."""
        if self.held is not None:
            return
        weight = self.weight.data
        if _takes_onednn(weight):
            self._packed = ONEDNN._reorder_linear_weight(weight)
            self.weight.data = weight.new_empty(0)

    def forget_layout(self) -> None:
        """Give up the packed weight."""
        self._packed = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self._packed is None else self._packed
        out: Tensor
        if not _takes_onednn(self.weight):
            out = F.linear(x, weight, self.bias)
        else:
            out = ONEDNN._linear_pointwise(x, weight, self.bias, "none", [], "")
        for each in self.added:
            each.add_(out, x)
        return out

    def with_gelu(self, x: Tensor) -> Tensor:
        """The tanh-approximated GELU of y, without a second tensor of y's size."""
        out: Tensor
        if self.added or not _takes_onednn(self.weight):
            out = torch.ops.aten.gelu_(self(x), approximate="tanh")
        else:
            weight = self.weight if self._packed is None else self._packed
            out = ONEDNN._linear_pointwise(x, weight, self.bias, "gelu", [], "tanh")
        return out


def _takes_onednn(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
