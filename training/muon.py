"""Muon, for matrices inside a network: momentum, made orthogonal by a few Newton-Schulz steps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1, fast and roughly
STEPS = 5


def orthogonal(update: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix to `update`, (rows, columns)."""
    a, b, c = COEFFICIENTS
    x = update
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Kernels of convolutions count as matrices (outputs, all else)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                memory = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(memory, group["momentum"]).flatten(1)
                rows, columns = update.shape
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(orthogonal(update).view_as(parameter), alpha=-scale)
