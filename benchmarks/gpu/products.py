"""What cuBLAS may do to a product: GELU in its epilogue, and sums of parts in bfloat16.

M rows, C channels, F channels of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gpu.rates import allow_tf32
from gpu.report import Row
from gpu.scale import Scale
from gpu.transformer import DTYPE
from gpu.turns import take_turns
from ringlight.core.portions import SLICE_TOKENS

CHECKED = 64  # rows that are held against float32
TELLING, TOLD = (-3.5, -1.5), 64  # values of x that tell the two kinds of GELU apart
SHARES = (1, 8)  # of a slice: what a rank of many has


@torch.inference_mode()
def compare_gelu(scale: Scale) -> Iterator[Row]:
    """The feed-forward's first product: GELU as a pass of its own, in place, or where the product is written."""
    x_MC, weight_FC, bias_F = _draw(scale, min(SLICE_TOKENS, scale.num_tokens(scale.videos[-1])))
    exact = F.linear(x_MC[:CHECKED].float(), weight_FC.float(), bias_F.float())
    runs = {
        "a pass of its own": partial(_own_pass, x_MC, weight_FC, bias_F),
        "epilogue": partial(_epilogue, x_MC, weight_FC, bias_F),
    }
    notes = {}
    for name, run in runs.items():
        found = run()[:CHECKED].float()
        distances = {kind: float((found - F.gelu(exact, approximate=kind)).abs().mean()) for kind in ("tanh", "none")}
        notes[name] = f"mean distance {distances['tanh']:.4g} from tanh, {distances['none']:.4g} from erf"
    yield from take_turns(f"product with GELU, {len(x_MC)} rows", runs, scale.device, notes)
    yield _which_gelu(scale.device)


def _which_gelu(device: torch.device) -> Row:
    """Where the two differ most for their size, which bfloat16 can tell: of what is slightly negative."""
    low, high = TELLING
    x_MC = torch.linspace(low, high, TOLD, device=device).to(DTYPE).unsqueeze(0)
    found = _epilogue(x_MC, torch.eye(TOLD, device=device, dtype=DTYPE), torch.zeros_like(x_MC[0])).float()
    tanh, erf = (float((found - F.gelu(x_MC.float(), approximate=kind)).abs().mean()) for kind in ("tanh", "none"))
    told = f"mean distance {tanh:.2g} from tanh, {erf:.2g} from erf: it is {'tanh' if tanh < erf else 'erf'}"
    return Row(f"GELU of the epilogue, {low:g} to {high:g}", told, numbers={"from_tanh": tanh, "from_erf": erf})


def _own_pass(x_MC: Tensor, weight_FC: Tensor, bias_F: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.gelu_(F.linear(x_MC, weight_FC, bias_F), approximate="tanh")
    return out


def _epilogue(x_MC: Tensor, weight_FC: Tensor, bias_F: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten._addmm_activation(bias_F, x_MC, weight_FC.t(), use_gelu=True)
    return out


@torch.inference_mode()
def compare_sums(scale: Scale) -> Iterator[Row]:
    """Products whose inner dimension cuBLAS may split: parts summed in bfloat16, as torch allows by itself, or not."""
    allow_tf32(False)
    tokens = min(SLICE_TOKENS, scale.num_tokens(scale.videos[-1]))
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_bf16_reduced_precision_reduction
    try:
        for share in SHARES:
            x_MC, weight_FC, _ = _draw(scale, max(1, tokens // share))
            hidden_MF = F.linear(x_MC, weight_FC)
            down_CF = weight_FC.t().contiguous()
            exact = F.linear(hidden_MF[:CHECKED].float(), down_CF.float())
            runs = {
                name: partial(_down, hidden_MF, down_CF, is_reduced)
                for name, is_reduced in (("allowed", True), ("not allowed", False))
            }
            notes = {
                name: f"rms error {float((run()[:CHECKED].float() - exact).square().mean().sqrt()):.4g}"
                for name, run in runs.items()
            }
            yield from take_turns(f"sums in bfloat16, {len(x_MC)} rows", runs, scale.device, notes)
    finally:
        matmul.allow_bf16_reduced_precision_reduction = allowed


def _down(hidden_MF: Tensor, down_CF: Tensor, is_reduced: bool) -> Tensor:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = is_reduced
    return F.linear(hidden_MF, down_CF)


def _draw(scale: Scale, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows of activations, a weight that keeps their size, a bias), random."""
    spec, generator = scale.transformer, torch.Generator(scale.device).manual_seed(8)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=scale.device)

    weight = draw(spec.ffn_dim, spec.inner_dim) / spec.inner_dim**0.5
    return draw(rows, spec.inner_dim).to(DTYPE), weight.to(DTYPE), 0.1 * draw(spec.ffn_dim).to(DTYPE)
