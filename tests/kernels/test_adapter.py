"""What LoRAs add to one weight: merged and on the fly, against the formula; how much of it a merge would lose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ringlight.core.eight_bit import EightBit
from ringlight.kernels import adapter as module
from ringlight.kernels.adapter import Adapter, FullRank, LowRank, OnTheFly, excerpt_of, joined
from ringlight.kernels.linear import Linear

CPU = torch.device("cpu")
OUT, IN = 96, 40


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product(rank: int, factor: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> LowRank:
    return LowRank(drawn(OUT, rank, seed=seed).to(dtype), drawn(rank, IN, seed=seed + 1).to(dtype), factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_merge_is_in_float32_and_rounded_once(dtype: torch.dtype, stored: torch.dtype) -> None:
    weight = drawn(OUT, IN, seed=9).to(dtype)
    one, other = product(4, 0.3, 1, stored), product(7, -1.7, 3, stored)
    whole = FullRank(drawn(OUT, IN, seed=5).to(stored), 0.5)
    by_hand = 0.3 * (one.up.float() @ one.down.float())
    by_hand += -1.7 * (other.up.float() @ other.down.float())
    by_hand += 0.5 * whole.values.float()
    expected = (weight.float() + by_hand).to(dtype)
    joined([Adapter((one,)), Adapter((other, whole))]).merge_(weight)
    assert torch.equal(weight, expected)


def test_pieces_make_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding of float32, and on views of a larger weight, which stays as it is beside them."""
    adapter = Adapter((product(4, 0.3),))
    whole, fused = torch.zeros(OUT, IN), torch.zeros(3 * OUT, IN)
    adapter.merge_(whole)
    monkeypatch.setattr(module, "MERGED_NUMBERS", 7 * IN)
    adapter.merge_(fused[OUT : 2 * OUT])
    torch.testing.assert_close(fused[OUT : 2 * OUT], whole, rtol=1e-6, atol=1e-6)
    assert not fused[:OUT].any() and not fused[2 * OUT :].any()


def test_vectors_and_kernels_are_merged_in_their_own_shapes() -> None:
    vector, kernel, table = drawn(OUT), drawn(OUT, 3, 1, 2, 2), drawn(1, 6, OUT)
    expected = (vector + 2 * drawn(OUT, seed=1), table - drawn(1, 6, OUT, seed=2))
    Adapter((FullRank(drawn(OUT, seed=1), 2.0),)).merge_(vector)
    Adapter((FullRank(drawn(1, 6, OUT, seed=2), -1.0),)).merge_(table)
    assert torch.equal(vector, expected[0])
    assert torch.equal(table, expected[1])
    up, down = drawn(OUT, 4, 1, 1, 1, seed=3), drawn(4, 3, 1, 2, 2, seed=4)
    by_hand = kernel + (up.flatten(1) @ down.flatten(1)).view(kernel.shape)
    Adapter((LowRank(up, down, 1.0),)).merge_(kernel)
    assert torch.equal(kernel, by_hand)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("held", [None, EightBit("int8")])
def test_on_the_fly_is_as_merged(dtype: torch.dtype, tolerance: float, held: EightBit | None) -> None:
    """Into a slice of the outputs, before the GELU, whether the weight is held in eight bits or not."""
    linear = Linear(IN, 2 * OUT, held=held).requires_grad_(False)
    if held is not None:
        linear.numbers.copy_(drawn(2 * OUT, IN).mul(40).round().clamp(-127, 127))
        linear.scale.fill_(1 / 300)
        linear.compute_in(dtype, CPU)
        linear.bias.data = linear.bias.to(dtype)
    else:
        linear.to(dtype)
    linear.widen()
    linear.lay_out()
    adapter = Adapter((product(4, 0.05), product(3, -0.02, 4)))
    weight = linear.weight if linear.weight.numel() else linear._packed.to_dense()
    merged = weight.float().clone()
    adapter.merge_(merged[OUT:])
    x = drawn(1, 5, IN, seed=8).to(dtype)
    plain = linear(x)
    linear.added = (adapter.on_the_fly(OUT, dtype),)
    exact = F.linear(x.float(), merged, linear.bias.float())
    torch.testing.assert_close(linear(x).float(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        linear.with_gelu(x).float(), F.gelu(exact, approximate="tanh"), rtol=tolerance, atol=tolerance
    )
    assert torch.equal(linear(x)[..., :OUT], plain[..., :OUT])
    assert (linear(x) - plain).abs().max() > 0.1
    linear.added = ()
    assert torch.equal(linear(x), plain)


def test_slices_of_tokens_are_added_to_where_they_lie() -> None:
    adapter, x, y = OnTheFly(2, drawn(3, 4), drawn(4, IN)), drawn(1, 9, IN, seed=2), torch.zeros(1, 5, 8)
    adapter.add_(y, x[:, 2:7])
    expected = torch.zeros(1, 5, 8)
    expected[..., 2:5] = x[:, 2:7] @ adapter.down.T @ adapter.up.T
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(("relative", "bfloat16", "float16"), [(0.001, 0.8, 0.2), (0.01, 0.17, 0.03), (0.1, 0.02, 0)])
def test_what_a_merge_loses_is_told_from_few_rows(relative: float, bfloat16: float, float16: float) -> None:
    """As measured on whole weights: the smaller it is the more, and in bfloat16 eight times as much."""
    weight = drawn(512, 512).to(torch.bfloat16).float()
    low = LowRank(drawn(512, 8, seed=1), drawn(8, 512, seed=2), 1.0)
    factor = relative * float(weight.norm() / (low.up @ low.down).norm())
    adapter, excerpt = Adapter((low._replace(factor=factor),)), excerpt_of(weight)
    base = weight[excerpt]
    assert base.shape == (32, 512)
    assert adapter.size(base, excerpt) == pytest.approx(relative, rel=0.2)
    assert adapter.lost(base, excerpt, torch.bfloat16) == pytest.approx(bfloat16, rel=0.3)
    assert adapter.lost(base, excerpt, torch.float16) == pytest.approx(float16, rel=0.5, abs=0.01)
    nothing = Adapter((low._replace(factor=0.0),))
    assert (nothing.size(base, excerpt), nothing.lost(base, excerpt, torch.bfloat16)) == (0.0, 0.0)
