"""The text encoder at full size on fake CUDA tensors, whole and by layers."""

from __future__ import annotations

import pytest
import torch

from ringlight.core.portions import MAX_ELEMENTS
from tests.fake_cuda.device import on_fake_cuda
from tests.fake_cuda.networks import Prompts, case_name


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [Prompts(), Prompts(2, rank=1)], ids=case_name)
def test_prompts_take_little_beside_the_weights(prompts: Prompts) -> None:
    """So that no plan counts them."""
    seen = on_fake_cuda(prompts.run)
    assert seen.peak_bytes < 0.25 * 2**30
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert seen.dtypes["aten._softmax.default"] == {torch.bfloat16}
