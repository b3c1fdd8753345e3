"""The kernel protocol, and the choice among kernels.

Shapes: B batch, S queries, L keys, H heads, D head width. `q_BSHD`, `k_BLHD`, `v_BLHD` -> out `BSHD` in the inputs'
dtype, and the log-sum-exp of the scaled scores `BSH` in float32. With it, attention over parts of the keys can be
merged exactly (`merge`), which is what a ring does, and what stands for many equal keys in cross-attention.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor

from ringlight.core.errors import InvalidSetting
from ringlight.core.kernels import AUTO, PREFERRED, attention_place
from ringlight.kernels.attention.trial import fault_of

logger = logging.getLogger(__name__)


class AttentionKernel(Protocol):
    """Plain attention of all queries to all keys, scaled by 1/sqrt(D)."""

    name: str

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (out BSHD, log-sum-exp BSH in float32)."""
        ...

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether this kernel runs there and returns a true log-sum-exp."""
        ...


def load_kernel(name: str) -> AttentionKernel:
    """The kernel of this name. Raises InvalidSetting where there is none, or its package cannot be imported."""
    place = attention_place(name)
    module, _, kind = place.partition(":")
    try:
        kernel: AttentionKernel = getattr(import_module(module), kind)()
    except Exception as error:  # of a package that is not ours
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidSetting(f"attention {name} ({place}) cannot be loaded: {reason}") from error
    return kernel


def choose_kernel(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    num_heads: int = 1,
    name: str = AUTO,
    kernels: Iterable[AttentionKernel] | None = None,
) -> AttentionKernel:
    """Choose the kernel of that name; for `auto` the first of `kernels` (None: the preferred ones) that runs there.

    Each is tried, because what a device and its libraries can do is not known before; why one is passed over is logged.
    Raises InvalidSetting where none is left, and what trying them raises of memory that ran out.
    """
    if name != AUTO:
        kernels = [load_kernel(name)]
    faults = []
    for kernel in map(load_kernel, PREFERRED) if kernels is None else kernels:
        if not kernel.supports(device, dtype, head_dim):
            continue
        fault = fault_of(kernel, device, dtype, num_heads, head_dim)
        if fault is None:
            return kernel
        faults.append(f"{kernel.name}: {fault}")
        logger.warning("attention kernel %s is passed over for %s on %s: %s", kernel.name, dtype, device, fault)
    tried = f" ({'; '.join(faults)})" if faults else ""
    where = f"{dtype} heads of {head_dim} on {device}"
    if name != AUTO:
        why = f"is wrong for {where}{tried}" if faults else f"does not run for {where}"
        raise InvalidSetting(f"attention {name} {why}; --attention auto takes one that is right")
    raise InvalidSetting(f"no attention kernel with log-sum-exp for {where}{tried}; use --dtype float32")


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge attention over two sets of keys into that over their union. All float32; written over `out_a`.

    out BSHD, lse BSH. Weights are exp(lse_x - logaddexp(lse_a, lse_b)) (Milakov and Gimelshein, arXiv 1805.02867).
    """
    lse = torch.logaddexp(lse_a, lse_b)
    out_a.mul_((lse_a - lse).exp_().unsqueeze(-1)).addcmul_(out_b, (lse_b - lse).exp_().unsqueeze(-1))
    return out_a, lse


def attend_more(
    merged: tuple[Tensor, Tensor] | None, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor, kernel: AttentionKernel
) -> tuple[Tensor, Tensor] | None:
    """Merge the attention to more keys into float32 output and log-sum-exp (None: nothing is merged so far)."""
    if not q_BSHD.numel() or not k_BLHD.numel():
        return merged
    out, lse = kernel(q_BSHD, k_BLHD, v_BLHD)
    return (out.float(), lse) if merged is None else merge(*merged, out.float(), lse)
