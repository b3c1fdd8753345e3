"""Cross-attention to the true rows of a prompt with padding merged in as one, against all 512 rows in one call."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gpu.kernels import random_qkv
from gpu.report import Row
from gpu.scale import MAX_TEXT_ROWS, TRUE_TEXT_ROWS, Scale
from gpu.transformer import DTYPE
from gpu.turns import take_turns
from ringlight.core.portions import SLICE_TOKENS
from ringlight.families.wan.networks.conditioning import TextKeys
from ringlight.kernels.attention.kernel import choose_kernel


@torch.inference_mode()
def compare(scale: Scale) -> Iterator[Row]:
    """One block's, one slice of the largest video's tokens, and what is left of them after whole slices."""
    spec, num_pad = scale.transformer, MAX_TEXT_ROWS - TRUE_TEXT_ROWS
    kernel = choose_kernel(scale.device, DTYPE, spec.attention_head_dim)
    tokens = scale.num_tokens(scale.videos[-1])
    for num_queries in sorted({min(SLICE_TOKENS, tokens), tokens % SLICE_TOKENS or tokens}):
        size = (num_queries, TRUE_TEXT_ROWS + 1, spec.num_attention_heads, spec.attention_head_dim)
        q, k, v = random_qkv(*size, DTYPE, scale.device)
        merged, whole = TextKeys(k, v, num_pad), TextKeys(_repeat_last(k, num_pad), _repeat_last(v, num_pad), 0)
        truth = TextKeys(whole.k_BLHD.float(), whole.v_BLHD.float(), 0).attend(
            q.float(), choose_kernel(scale.device, torch.float32, spec.attention_head_dim)
        )
        ways = {"true rows and one for padding": merged, "all rows": whole}
        notes = {
            name: f"max error {float((keys.attend(q, kernel).float() - truth).abs().max()):.2g}"
            for name, keys in ways.items()
        }
        runs = {name: partial(keys.attend, q, kernel) for name, keys in ways.items()}
        yield from take_turns(f"text for {num_queries} tokens, {kernel.name}", runs, scale.device, notes)


def _repeat_last(rows_BLHD: Tensor, times: int) -> Tensor:
    """The last row as often as padding has it."""
    return torch.cat([rows_BLHD, rows_BLHD[:, -1:].expand(-1, times - 1, -1, -1)], dim=1)
