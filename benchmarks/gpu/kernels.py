"""Attention kernels against the reference in float64: output, log-sum-exp, and the merge of two halves of the keys.

B batch, S queries, L keys, H heads, D head width. Values are a strided view, as they are in the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from gpu.clock import show_seconds, timed
from gpu.rates import allow_tf32
from gpu.report import Row, error_line, within
from gpu.scale import MAX_TEXT_ROWS, Scale
from gpu.section import Section
from ringlight.core.kernels import ATTENTION, PREFERRED
from ringlight.core.portions import SLICE_TOKENS
from ringlight.families.wan.networks.conditioning import TextKeys
from ringlight.kernels.attention.kernel import AttentionKernel, load_kernel, merge
from ringlight.kernels.attention.reference import Reference

HEADS = 3
HEAD_DIM = 128
DTYPES = (torch.bfloat16, torch.float32)
# (queries, keys). One key is what an empty prompt leaves to cross-attention.
LENGTHS = (
    (1, 1),
    (1, 512),
    (5, 7),
    (5, 1000),
    (33, 33),
    (33, 175),
    (175, 5),
    (175, 1000),
    (1000, 1),
    (1000, 77),
    (1000, 1000),
)
MERGED_LENGTHS = ((1, 512), (33, 175), (175, 5), (1000, 1000))
# (queries, true rows of text). An empty prompt has one, the end mark.
PADDED_LENGTHS = ((33, 1), (1000, 1), (175, 77), (1000, 511))
LONG_HEADS = 24
NEW_LENGTHS = 20
MIB = 2**20
EDGE = 64  # queries at each end of the long sequence that are held against the reference

# By dtype: largest error of the output over the largest output, and largest error of the log-sum-exp.
BOUNDS = {torch.bfloat16: (2e-2, 1e-3), torch.float32: (2e-5, 2e-5)}


@dataclass(frozen=True)
class Worst:
    """The larger of two errors and the lengths it was seen at."""

    error: float = -1.0
    at: str = ""

    def with_(self, error: float, at: str) -> Worst:
        """The worse of this one and another; a NaN is worse than all and stays."""
        return self if error <= self.error or math.isnan(self.error) else Worst(error, at)

    def __str__(self) -> str:
        return f"{self.error:.2g} ({self.at})" if self.at else "none"


def run(section: Section, scale: Scale) -> None:
    """All kernels of the table in the dtypes that networks run in; what does not run here is a row of its own."""
    allow_tf32(False)
    for name in ATTENTION:
        kernel = load_kernel(name)
        for dtype in DTYPES:
            label = f"{name}, {_short(dtype)}, head_dim {HEAD_DIM}"
            section.attempt(label, partial(_check_kernel, label, kernel, dtype, scale))
    for name in PREFERRED:
        label = f"{name}, bfloat16, {scale.long_tokens} queries and keys, {LONG_HEADS} heads of {HEAD_DIM}"
        section.attempt(label, partial(_check_long, label, load_kernel(name), scale))
        label = f"{name}, bfloat16, {NEW_LENGTHS} new lengths of a prompt"
        section.attempt(label, partial(_meet_new_lengths, label, load_kernel(name), scale))


def _check_kernel(label: str, kernel: AttentionKernel, dtype: torch.dtype, scale: Scale) -> Iterator[Row]:
    if not kernel.supports(scale.device, dtype, HEAD_DIM):
        yield Row(label, f"supports() is false on {scale.device.type}", verdict="not supported")
        return
    yield _compare(label, kernel, LENGTHS, dtype, scale)
    halves = partial(_attend_in_halves, kernel)
    yield _compare(f"merge of two halves: {label}", halves, MERGED_LENGTHS, dtype, scale)
    yield _compare_padded(f"padded text: {label}", kernel, dtype, scale)


def _capped(lengths: tuple[tuple[int, int], ...], scale: Scale) -> list[tuple[int, int]]:
    """With no more queries than the longest sequence has."""
    return [(min(num_queries, scale.long_tokens), others) for num_queries, others in lengths]


def _compare(
    label: str,
    attend: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    lengths: tuple[tuple[int, int], ...],
    dtype: torch.dtype,
    scale: Scale,
) -> Row:
    """One row for all lengths: the worst errors, and every length at which the kernel broke its contract."""
    out_bound, lse_bound = BOUNDS[dtype]
    out_worst, lse_worst, broken = Worst(), Worst(), []
    for num_queries, num_keys in _capped(lengths, scale):
        at = f"{num_queries}x{num_keys}"
        q, k, v = random_qkv(num_queries, num_keys, HEADS, HEAD_DIM, dtype, scale.device)
        try:
            out, lse = attend(q, k, v)
            _require_contract(q, out, lse)
        except (RuntimeError, AssertionError) as error:  # one length must not hide the others
            broken.append(f"{at}: {error_line(error)}")
            continue
        out_error, lse_error = errors(q, k, v, out, lse)
        out_worst, lse_worst = out_worst.with_(out_error, at), lse_worst.with_(lse_error, at)
    held = not broken and out_worst.error <= out_bound and lse_worst.error <= lse_bound
    measured = "; ".join([f"out {out_worst}, lse {lse_worst}", *broken])
    numbers = {"out_error": out_worst.error, "lse_error": lse_worst.error, "broken": broken}
    return within(label, measured, f"out {out_bound:g} of max, lse {lse_bound:g}", held, **numbers)


def _compare_padded(label: str, kernel: AttentionKernel, dtype: torch.dtype, scale: Scale) -> Row:
    """Cross-attention as the network does it, padding as one key, against all its rows written out."""
    out_bound, _ = BOUNDS[dtype]
    worst, broken = Worst(), []
    for num_queries, true_rows in _capped(PADDED_LENGTHS, scale):
        at = f"{num_queries}x{true_rows}"
        num_pad = MAX_TEXT_ROWS - true_rows
        q, k, v = random_qkv(num_queries, true_rows + 1, HEADS, HEAD_DIM, dtype, scale.device)
        try:
            out = TextKeys(k, v, num_pad).attend(q, kernel)
        except (RuntimeError, AssertionError) as error:
            broken.append(f"{at}: {error_line(error)}")
            continue
        whole_k, whole_v = (torch.cat([rows, rows[:, -1:].expand(-1, num_pad - 1, -1, -1)], dim=1) for rows in (k, v))
        worst = worst.with_(errors(q, whole_k, whole_v, out)[0], at)
    held = not broken and worst.error <= out_bound
    measured = "; ".join([f"out {worst}", *broken])
    return within(label, measured, f"out {out_bound:g} of max", held, out_error=worst.error, broken=broken)


def _meet_new_lengths(label: str, kernel: AttentionKernel, scale: Scale) -> Iterator[Row]:
    """What prompts of new lengths cost a kernel that plans by shape: seconds, and memory that no allocator knows of."""
    if not kernel.supports(scale.device, torch.bfloat16, HEAD_DIM):
        yield Row(label, f"supports() is false on {scale.device.type}", verdict="not supported")
        return
    queries = min(SLICE_TOKENS, scale.long_tokens)
    calls = [
        partial(kernel, *random_qkv(queries, num_keys, LONG_HEADS, HEAD_DIM, torch.bfloat16, scale.device))
        for num_keys in range(61, 61 + NEW_LENGTHS)
    ]
    before = _bytes_outside(scale.device)
    first = [timed(call, scale.device) for call in calls]
    grown = _bytes_outside(scale.device) - before
    again = median(timed(call, scale.device) for call in calls)
    measured = (
        f"{show_seconds(median(first))} the first time ({show_seconds(max(first))} at most), again "
        f"{show_seconds(again)}; {grown / MIB:.0f} MiB more outside the allocator, {before / MIB:.0f} before"
    )
    numbers = {"first_seconds": median(first), "again_seconds": again, "outside_bytes": before, "grown_bytes": grown}
    yield Row(label, measured, numbers=numbers)


def _bytes_outside(device: torch.device) -> int:
    """Memory of the device that is taken, and not by the caching allocator of this process; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return total_bytes - free_bytes - torch.cuda.memory_reserved(device)


def _check_long(label: str, kernel: AttentionKernel, scale: Scale) -> Iterator[Row]:
    """The length of a full-size video, where indexes are large; only the ends are held against the reference."""
    device, tokens = scale.device, scale.long_tokens
    if not kernel.supports(device, torch.bfloat16, HEAD_DIM):
        yield Row(label, f"supports() is false on {device.type}", verdict="not supported")
        return
    q, k, v = random_qkv(tokens, tokens, LONG_HEADS, HEAD_DIM, torch.bfloat16, device)
    out, lse = kernel(q, k, v)
    out_bound, lse_bound = BOUNDS[torch.bfloat16]
    out_worst, lse_worst = Worst(), Worst()
    for name, ends in (("first", slice(0, EDGE)), ("last", slice(tokens - EDGE, tokens))):
        out_error, lse_error = errors(q[:, ends], k, v, out[:, ends], lse[:, ends])
        out_worst, lse_worst = out_worst.with_(out_error, name), lse_worst.with_(lse_error, name)
    held = out_worst.error <= out_bound and lse_worst.error <= lse_bound
    numbers = {"out_error": out_worst.error, "lse_error": lse_worst.error}
    bound = f"out {out_bound:g} of max, lse {lse_bound:g}"
    yield within(label, f"out {out_worst}, lse {lse_worst} {EDGE} queries", bound, held, **numbers)


def random_qkv(
    num_queries: int, num_keys: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """q BSHD and k BLHD contiguous, v BLHD the last third of rows of a fused projection. B is 1."""
    generator = torch.Generator(device).manual_seed(1000 * num_queries + num_keys)

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(1, rows, columns, generator=generator, device=device).to(dtype)

    width = heads * head_dim
    fused = draw(num_keys, 3 * width)
    flat = (draw(num_queries, width), draw(num_keys, width), fused.chunk(3, dim=-1)[2])
    q, k, v = (tensor.unflatten(-1, (heads, head_dim)) for tensor in flat)
    return q, k, v


def errors(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None = None) -> tuple[float, float]:
    """(largest error of the output over the largest output, largest error of the log-sum-exp), against float64."""
    true_out, true_lse = Reference()(q.double(), k.double(), v.double())
    out_error = (out.double() - true_out).abs().max() / true_out.abs().max()
    lse_error = 0.0 if lse is None else float((lse - true_lse).abs().max())
    return float(out_error), lse_error


def _attend_in_halves(kernel: AttentionKernel, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same attention from two calls over half of the keys each."""
    middle = k.shape[1] // 2
    (out_a, lse_a), (out_b, lse_b) = (
        kernel(q, k[:, part], v[:, part]) for part in (slice(0, middle), slice(middle, None))
    )
    out, lse = merge(out_a.float(), lse_a, out_b.float(), lse_b)
    return out.to(q.dtype), lse


def _require_contract(q: Tensor, out: Tensor, lse: Tensor) -> None:
    assert out.shape == q.shape and out.dtype == q.dtype, f"out is {tuple(out.shape)} {out.dtype}"
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32, f"lse is {tuple(lse.shape)} {lse.dtype}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
