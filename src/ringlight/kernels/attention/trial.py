"""A kernel's trial: run once against the reference, at lengths that ask for different code, before it is relied on.

Shapes as in kernel.py: B batch, S queries, L keys, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ringlight.kernels.attention.reference import Reference

# Queries and keys: one query, few of both, lengths that are no multiple of anything, and on CUDA those of a slice of
# tokens with the text. A CPU has no libraries to be wrong about, and a large trial would take it seconds.
LENGTHS = {"cpu": ((1, 64), (64, 64), (33, 77)), "cuda": ((1, 64), (64, 64), (333, 77), (4096, 512))}
LEAST_TOLERANCE = 1e-3  # of float32: with TensorFloat-32 somewhere within a kernel is still right
ROUNDINGS = 4  # of the dtype, that values around 1 may be off by

Attention = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fault_of(attend: Attention, device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int) -> str | None:
    """Fault of a kernel on a device, in words; None if all lengths come out right.

    Raises OutOfMemoryError: that is nobody's fault.
    """
    for num_queries, num_keys in LENGTHS[device.type]:
        q, k, v = random_inputs(num_queries, num_keys, num_heads, head_dim, device, dtype)
        try:
            found = attend(q, k, v)
            fault = _difference(found, Reference()(q, k, v), dtype)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if fault is not None:
            return f"{num_queries} queries to {num_keys} keys: {fault}"
    return None


def random_inputs(
    num_queries: int, num_keys: int, num_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q (1, S, H, D), k and v (1, L, H, D), always the same; v lies within a fused product as in a block."""
    generator = torch.Generator(device).manual_seed(0)
    q, fused = (
        torch.randn(1, length, width * num_heads, head_dim, generator=generator, device=device).to(dtype)
        for length, width in ((num_queries, 1), (num_keys, 2))
    )
    k, v = fused.chunk(2, dim=2)
    return q, k.contiguous(), v


def allowed(dtype: torch.dtype) -> float:
    """Largest difference from the reference that a kernel may have, of values around 1."""
    return max(LEAST_TOLERANCE, ROUNDINGS * torch.finfo(dtype).eps)


def _difference(found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], dtype: torch.dtype) -> str | None:
    """Difference of an output or a log-sum-exp beyond the tolerance, in words; NaN always counts."""
    tolerance = allowed(dtype)
    for name, ours, theirs in zip(("output", "log-sum-exp"), found, right, strict=True):
        if ours.shape != theirs.shape or torch.promote_types(ours.dtype, theirs.dtype) != ours.dtype:
            return f"{name} is {tuple(ours.shape)} in {ours.dtype}, not {tuple(theirs.shape)} in {theirs.dtype}"
        worst = float((ours.double() - theirs.double()).abs().max())
        if not worst <= tolerance:
            return f"{name} is wrong by {worst:.2g}, and {tolerance:.2g} is allowed"
    return None
