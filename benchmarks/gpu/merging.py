"""Attention to all keys in one kernel call against several calls over parts of them, merged: what a ring adds.

R rows of keys and values in one buffer, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from gpu.clock import median_timing, read_peak, start_peak
from gpu.report import Row
from gpu.scale import Scale
from gpu.transformer import DTYPE
from ringlight.core.layout import split_sizes
from ringlight.kernels.attention.kernel import AttentionKernel, attend_more, choose_kernel
from ringlight.kernels.attention.reference import Reference

PARTS = (2, 4, 8)
CHECKED = 64  # queries that are held against float64
MIB = 2**20


@torch.inference_mode()
def compare(scale: Scale) -> Iterator[Row]:
    """One of two ranks of the largest video: the queries of half of its tokens, the keys of all."""
    num_keys, spec = scale.num_tokens(scale.videos[-1]), scale.transformer
    generator = torch.Generator(scale.device).manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=scale.device).to(DTYPE)

    q = draw(1, num_keys // 2, spec.num_attention_heads, spec.attention_head_dim)
    kv_R2HD = draw(num_keys, 2, spec.num_attention_heads, spec.attention_head_dim)
    kernel = choose_kernel(scale.device, DTYPE, spec.attention_head_dim)
    label = f"attention of {q.shape[1]} queries to {num_keys} keys, {kernel.name}"
    whole = median_timing(partial(_attend, q, kv_R2HD, 1, kernel), scale.device, limit_seconds=2.0)
    truth = _attend(q[:, :CHECKED].double(), kv_R2HD.double(), 1, Reference())
    error = _error(_attend(q, kv_R2HD, 1, kernel), truth)
    numbers: dict[str, object] = {"seconds": whole.seconds, "rms_error": error}
    yield Row(f"{label}, one call", f"{whole}; rms error {error:.3g} of the result", numbers=numbers)
    partial_bytes = 4 * (q.numel() + q.numel() // spec.attention_head_dim)
    for num_parts in PARTS:
        run = partial(_attend, q, kv_R2HD, num_parts, kernel)
        timing = median_timing(run, scale.device, limit_seconds=2.0)
        start_peak(scale.device)
        before = read_peak(scale.device).allocated_bytes
        run()
        peak = read_peak(scale.device).allocated_bytes - before
        ratio = timing.seconds / whole.seconds
        merged_error = _error(_attend(q, kv_R2HD, num_parts, kernel), truth)
        measured = (
            f"{timing}; {ratio:.3f} of one call; rms error {merged_error:.3g}; "
            f"a float32 partial result is {partial_bytes / MIB:.1f} MiB, peak beside q, k, v {peak / MIB:.1f} MiB"
        )
        numbers = {
            "seconds": timing.seconds,
            "ratio": ratio,
            "rms_error": merged_error,
            "partial_bytes": partial_bytes,
            "peak_bytes": peak,
        }
        yield Row(f"{label}, {num_parts} calls merged", measured, numbers=numbers)


def _attend(q_BSHD: Tensor, kv_R2HD: Tensor, num_parts: int, kernel: AttentionKernel) -> Tensor:
    """Attention as `Ahead` and `Ring` do it: with a single part the kernel's own result, as without ranks."""
    if num_parts == 1:
        k, v = kv_R2HD.unbind(1)
        return kernel(q_BSHD, k.unsqueeze(0), v.unsqueeze(0))[0]
    merged = None
    for start, stop in pairwise(accumulate(split_sizes(len(kv_R2HD), num_parts), initial=0)):
        k, v = kv_R2HD[start:stop].unbind(1)
        merged = attend_more(merged, q_BSHD, k.unsqueeze(0), v.unsqueeze(0), kernel)
    assert merged is not None
    return merged[0].to(q_BSHD.dtype)


def _error(found_BSHD: Tensor, truth_BSHD: Tensor) -> float:
    """The rms difference of the first queries' results, over the rms of the truth."""
    difference = found_BSHD[:, : truth_BSHD.shape[1]].double() - truth_BSHD
    return float(difference.square().mean().sqrt() / truth_BSHD.square().mean().sqrt())
