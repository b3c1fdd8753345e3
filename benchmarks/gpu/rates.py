"""The device's dense matrix-product rates: what everything else is held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from gpu.clock import median_timing
from gpu.report import Row
from gpu.scale import Scale

TERA = 1e12


class Rates:
    """FLOP/s of a large square matrix product by kind: "bfloat16", "float32" and "tf32"."""

    def __init__(self, earlier: Iterable[Row] = ()) -> None:
        """As `measure` has told them in earlier rows; none otherwise."""
        found = [(row.name.rpartition(", ")[2], row.numbers.get("flop_per_second")) for row in earlier]
        self._rates: dict[str, float] = {kind: rate for kind, rate in found if rate is not None}

    def measure(self, scale: Scale) -> Iterator[Row]:
        """Measure all three, on random numbers (products of zeros run faster)."""
        for kind, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32), ("float32", torch.float32)):
            allow_tf32(kind == "tf32")
            size = scale.matmul_size
            left, right = (torch.randn(size, size, device=scale.device, dtype=dtype) for _ in range(2))
            timing = median_timing(partial(torch.mm, left, right), scale.device, samples=9)
            self._rates[kind] = 2 * size**3 / timing.seconds
            yield Row(
                f"matrix product {size}^3, {kind}",
                f"{timing}; {self._rates[kind] / TERA:.1f} TFLOP/s",
                numbers={"seconds": timing.seconds, "flop_per_second": self._rates[kind]},
            )

    def show(self, flop: float, seconds: float, kind: str) -> str:
        """TFLOP/s, and its share of the measured rate where there is one."""
        share = f" ({flop / seconds / self._rates[kind]:.0%} of matmul)" if kind in self._rates else ""
        return f"{flop / seconds / TERA:.4g} TFLOP/s{share}"


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions may run in TensorFloat-32, as a worker sets it."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
