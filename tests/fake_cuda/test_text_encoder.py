"""The text encoder at full size on fake CUDA tensors, whole and by layers."""

from __future__ import annotations

import pytest
import torch

from ringlight.core.portions import MAX_ELEMENTS
from tests.fake_cuda.device import on_fake_cuda
from tests.fake_cuda.networks import Prompts, case_name
from tests.planner.specs import REAL


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [Prompts(), Prompts(2, rank=1)], ids=case_name)
def test_prompts_take_little_beside_the_weights(prompts: Prompts) -> None:
    """Which only plans count in which weights are not there all the time."""
    seen = on_fake_cuda(prompts.run)
    planned = 2 * REAL.text_encoder.peak_elements(REAL.max_text_tokens, num_prompts=2)
    assert planned == pytest.approx(seen.peak_bytes, rel=0.05)
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert seen.dtypes["aten._softmax.default"] == {torch.bfloat16}
