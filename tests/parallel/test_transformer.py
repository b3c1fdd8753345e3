"""The transformer's forward over real ranks against one rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.parallel.mesh import ParallelMesh
from tests.ours import load_pipeline
from tests.parallel.ranks import on_ranks

LAYOUTS = [
    ParallelLayout(ring=2),
    ParallelLayout(ulysses=2),
    ParallelLayout(ring=3),
    ParallelLayout(ulysses=2, ring=2),
    ParallelLayout(ulysses=3),
]
QUICK_LAYOUTS = [ParallelLayout(ulysses=2, ring=2)]
GRIDS = [(3, 6, 10), (1, 2, 2), (5, 14, 6)]  # 45, 1 and 105 tokens: with one token, ranks have nothing to do


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=() if layout in QUICK_LAYOUTS else pytest.mark.slow) for layout in LAYOUTS],
    ids=lambda layout: layout.name,
)
@pytest.mark.parametrize("first_frame", [pytest.param(False, marks=pytest.mark.slow), True], ids=["t2v", "i2v"])
def test_forward_within_2e_5_of_one_rank(tiny: Path, layout: ParallelLayout, first_frame: bool) -> None:
    """In one slice and in several, one after the other over the same ranks."""
    pipeline = load_pipeline(tiny)
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(1, 48, *grid, generator=generator) for grid in GRIDS]
    text = torch.randn(30, 64, generator=generator)
    times = torch.tensor([0.0, 417.0] if first_frame else [417.0])

    def forward(mesh: ParallelMesh, num_slices: int) -> Tensor:
        keys = pipeline.transformer.text_keys(text, 512)
        network, kernel = pipeline.transformer, pipeline.kernel
        return torch.cat([network(x, times, keys, kernel, mesh, num_slices).flatten() for x in latents])

    alone = forward(ParallelMesh.alone(), 1)
    for whole, sliced in on_ranks(layout, lambda mesh: torch.stack([forward(mesh, 1), forward(mesh, 4)])):
        torch.testing.assert_close(whole, alone, rtol=0, atol=2e-5)
        torch.testing.assert_close(sliced, alone, rtol=0, atol=2e-5)
