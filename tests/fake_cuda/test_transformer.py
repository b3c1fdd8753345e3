"""The transformer at full size on fake CUDA tensors: what it holds against what is planned, dtypes, long tensors."""

from __future__ import annotations

import pytest
import torch

from ringlight.core.layout import ParallelLayout
from ringlight.core.portions import MAX_ELEMENTS, most_tokens
from ringlight.families.table import known_model
from tests.fake_cuda.device import on_fake_cuda
from tests.fake_cuda.networks import Forward, Size, case_name
from tests.planner.specs import REAL

LONG, SHORT, SMALL = Size(704, 1280, 121), Size(704, 1280, 25), Size(480, 832, 81)
LARGEST = Size(2304, 4096, 145)
BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
slow = pytest.mark.slow


def planned(forward: Forward) -> int:
    layout, spec = ParallelLayout.parse(forward.layout), known_model(forward.model)
    num_tokens = spec.num_tokens(forward.size.num_frames, forward.size.height, forward.size.width)
    return spec.transformer.peak_bytes(
        num_tokens, layout, False, forward.dtype.itemsize, forward.num_slices, 1 + forward.take_turns
    )


CASES = [
    pytest.param(Forward(SHORT, "u2r2"), marks=slow),
    *(pytest.param(Forward(size), marks=slow) for size in (LONG, SMALL)),
    *(pytest.param(Forward(LONG, name), marks=slow) for name in ("u1r2", "u2r1", "u8r1", "u2r4")),
    *(pytest.param(Forward(SMALL, "u1r2", num_slices), marks=slow) for num_slices in (2, 4)),
    *(pytest.param(Forward(SHORT, "u2r2", num_slices), marks=slow) for num_slices in (2, 4)),
    pytest.param(Forward(LONG, "u1r2", 2, take_turns=True), marks=slow),
    pytest.param(Forward(SHORT, "u2r1", take_turns=True), marks=slow),
    pytest.param(Forward(SHORT, take_turns=True), marks=slow),
    pytest.param(Forward(LONG, dtype=FLOAT32, kernel="efficient"), marks=slow),
    pytest.param(Forward(SMALL, "u1r2", kernel="flash", with_picture=True), marks=slow),
    pytest.param(Forward(Size(720, 1280, 81), "u2r2", model="Wan2.1-T2V-14B"), marks=slow),
    pytest.param(Forward(SMALL, "u1r2", 2, model="Wan2.1-T2V-1.3B"), marks=slow),
    pytest.param(Forward(SMALL, model="Wan2.1-I2V-14B-480P"), marks=slow),
]


@pytest.mark.parametrize("forward", CASES, ids=case_name)
def test_a_forward_holds_what_is_planned(forward: Forward) -> None:
    """Every operation and the attention kernel exist for CUDA, products are in one dtype, norms in float32."""
    seen = on_fake_cuda(forward.run)
    assert planned(forward) == pytest.approx(seen.peak_bytes, rel=0.05)
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert any(f"scaled_dot_product_{forward.kernel}_attention" in name for name in seen.dtypes)
    assert seen.dtypes["fused.rms_norm.default"] == {FLOAT32}
    assert FLOAT32 in seen.dtypes["aten.addcmul_.default"]  # hidden states
    assert seen.dtypes["aten.gelu_.default"] == {forward.dtype}
    assert seen.dtypes["aten.native_layer_norm.default"] == {FLOAT32}
    assert seen.dtypes["aten.addmm.default"] <= {forward.dtype, FLOAT32}  # the time embedder is in float32


@slow
@pytest.mark.parametrize("layout", ["u1r1", "u1r2"])
def test_the_longest_sequence_has_no_tensor_that_is_too_long(layout: str) -> None:
    tokens = REAL.num_tokens(LARGEST.num_frames, LARGEST.height, LARGEST.width)
    assert (
        tokens <= most_tokens(REAL.transformer.inner_dim) < tokens + REAL.num_tokens(1, LARGEST.height, LARGEST.width)
    )
    forward = Forward(LARGEST, layout, 1 if layout == "u1r1" else 2, num_layers=1)
    seen = on_fake_cuda(forward.run)
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert planned(forward) == pytest.approx(seen.peak_bytes, rel=0.05)
