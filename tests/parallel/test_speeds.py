"""What is measured of link and device: messages long enough to tell, and random values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.parallel.speeds import rate_of
from tests.ours import load_pipeline


@pytest.mark.parametrize(
    ("rate", "largest"),
    [(1e6, 2**16), (0.5e9, 2**24), (12e9, 2**24), (25e9, 2**26), (400e9, 2**28)],
    ids=["slow TCP", "TCP", "PCIe 3", "PCIe 4", "NVLink 4"],
)
def test_a_message_is_long_enough_to_tell_the_rate(rate: float, largest: int) -> None:
    """Within a tenth, where a message also takes 50 microseconds to be under way."""
    sent = []

    def seconds(num_bytes: int) -> float:
        sent.append(num_bytes)
        return 50e-6 + num_bytes / rate

    assert rate_of(seconds) == pytest.approx(rate, rel=0.1)
    assert sent[-1] == largest


def test_a_device_is_measured_on_random_values(tiny: Path) -> None:
    pipeline, seen = load_pipeline(tiny), []

    class Watching:
        name = "watching"

        def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
            return True

        def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(min(float(tensor.std()) for tensor in (q, k, v)) if k.shape[1] > 1 else 1.0)
            return pipeline.kernel(q, k, v)

    before = torch.get_rng_state()
    assert pipeline.transformer.measure_flops(Watching()) > 0
    assert seen
    assert min(seen) > 0.1
    assert torch.equal(torch.get_rng_state(), before), "requests draw from generators of their own"
