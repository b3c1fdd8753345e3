"""Bytes that really left each rank against the formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults
from ringlight.core.spec import ModelSpec
from ringlight.core.traffic import attention_elements, denoising_bytes
from ringlight.parallel.mesh import ParallelMesh
from tests.ours import load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks

KINDS = ("ring", "ulysses", "gather", "cfg")
NAMES = ("u1r2", "u2r1", "u1r3", "u3r1", "u2r2", "c2u1r1", "c2u1r2", "u5r1", "u1r5")


@pytest.mark.parametrize("num_slices", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_denoising_sends_what_the_formula_says(
    tiny: Path, spec: ModelSpec, tmp_path: Path, name: str, num_slices: int
) -> None:
    """Also for one token, and for ranks without heads or tokens."""
    layout = ParallelLayout.parse(name)
    pipeline = load_pipeline(tiny, num_slices=num_slices)
    for width, height, num_frames in ((224, 160, 5), (32, 32, 1)):
        request = RequestDefaults().complete(
            "a cat", spec, width=width, height=height, num_frames=num_frames, num_inference_steps=2, seed=1
        )

        def sent(mesh: ParallelMesh, request: object = request) -> Tensor:
            pipeline.run(request, tmp_path / "a.safetensors", "job", new_tracer(), mesh)  # type: ignore[arg-type]
            report = mesh.world.link.report()
            return torch.tensor([report[kind].sent_bytes if kind in report else 0 for kind in KINDS])

        for rank, counted in enumerate(on_ranks(layout, sent)):
            size = (num_frames, height, width)
            formula = denoising_bytes(spec, layout, rank, size, 2, True, num_slices, itemsize=4)
            assert dict(zip(KINDS, counted.tolist(), strict=True)) == {kind: formula.get(kind, 0) for kind in KINDS}


@pytest.mark.parametrize(("ulysses", "ring"), [(2, 1), (1, 2), (2, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("ahead", [False, True])
def test_where_all_divides_it_is_the_published_formula(ulysses: int, ring: int, ahead: bool) -> None:
    layout = ParallelLayout(ulysses=ulysses, ring=ring)
    tokens, heads = 64 * ulysses * ring, 8
    for rank in range(layout.num_ranks):
        sent = attention_elements(layout, rank, tokens, heads, ahead)
        ulysses_elements = 4 * tokens // layout.sp * heads * (ulysses - 1) // ulysses
        ring_elements = 2 * (tokens // ring) * heads // ulysses * (ring - 1)
        assert sum(sent.values()) == ulysses_elements + ring_elements
        if not ahead:
            assert sent == {"ulysses": ulysses_elements, "ring": ring_elements}
