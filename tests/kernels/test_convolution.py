"""Weights of convolutions as they are laid out."""

from __future__ import annotations

import pytest
import torch

from ringlight.kernels.convolution import SUMMED_ELEMENTS, sums_of


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 5), (12, 64), (200, 160)])
def test_sums_made_few_at_a_time_are_those_of_the_whole_weight(outputs: int, inputs: int) -> None:
    """To the bit, in float64 in between; the last case is more than goes at once, and comes out uneven."""
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
    rows = SUMMED_ELEMENTS // (27 * inputs)
    assert (outputs > rows and outputs % rows > 0) == (outputs == 200)
    first, middle, last = weight.double().unbind(2)
    expected = [first, (first + middle + last) / 2, (first + last - middle) / 2, last]
    sums = sums_of(weight)
    assert torch.equal(sums, torch.cat(expected).float())
    assert sums.is_contiguous(memory_format=torch.channels_last)
