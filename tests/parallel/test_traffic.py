"""Bytes that really left each rank against the formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.core.request import RequestDefaults
from ringlight.families.model import ModelSpec
from ringlight.families.traffic import attention_elements, denoising_bytes
from ringlight.families.work import Work
from ringlight.parallel.mesh import ParallelMesh
from tests.ours import load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks

KINDS = ("ring", "ulysses", "gather", "cfg")
NAMES = ("u1r2", "u2r1", "u1r3", "u3r1", "u2r2", "c2u1r1", "c2u1r2", "u5r1", "u1r5")
QUICK_NAMES = ("u1r2", "c2u1r1")
SIZES = ((224, 160, 5), (32, 32, 1))
SLICES = (1, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK_NAMES else pytest.mark.slow) for name in NAMES]
)
def test_denoising_sends_what_the_formula_says(tiny: Path, spec: ModelSpec, tmp_path: Path, name: str) -> None:
    """Also for one token, and for ranks without heads or tokens; all cases one after another over the same ranks."""
    layout = ParallelLayout.parse(name)
    cases = [(size, num_slices) for size in SIZES for num_slices in SLICES]
    pipeline = load_pipeline(tiny)
    requests = {
        (width, height, num_frames): RequestDefaults().complete(
            "a cat", spec, width=width, height=height, num_frames=num_frames, num_inference_steps=2, seed=1
        )
        for width, height, num_frames in SIZES
    }

    def sent(mesh: ParallelMesh) -> Tensor:
        counted = []
        for size, num_slices in cases:
            mesh.world.link.reset()
            plan = JobPlan(num_slices=num_slices, take_turns=num_slices > 1)
            pipeline.run(requests[size], tmp_path / "a.safetensors", "job", new_tracer(), mesh, plan)
            report = mesh.world.link.report()
            counted.append([report[kind].sent_bytes if kind in report else 0 for kind in KINDS])
        return torch.tensor(counted)

    for rank, by_case in enumerate(on_ranks(layout, sent)):
        for ((width, height, num_frames), num_slices), counted in zip(cases, by_case.tolist(), strict=True):
            work = Work.of(spec, requests[width, height, num_frames])
            formula = denoising_bytes(work, layout, rank, num_slices, itemsize=4)
            assert dict(zip(KINDS, counted, strict=True)) == {kind: formula.get(kind, 0) for kind in KINDS}


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
