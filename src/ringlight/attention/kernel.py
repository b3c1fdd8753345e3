"""The kernel protocol, the table of kernels, and the choice among them.

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

from ringlight.attention.trial import fault_of
from ringlight.core.errors import InvalidSetting

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


KERNELS = {
    "flash_cpu": "ringlight.attention.sdpa:FlashCpu",
    "cudnn": "ringlight.attention.sdpa:Cudnn",
    "flash": "ringlight.attention.sdpa:Flash",
    "efficient": "ringlight.attention.sdpa:Efficient",
    "reference": "ringlight.attention.reference:Reference",
}

# In order of preference. The reference holds all scores at once: it is the yardstick, never a choice.
PREFERRED = ("flash_cpu", "cudnn", "flash", "efficient")


def load_kernel(name: str) -> AttentionKernel:
    """The kernel of this name. Raises KeyError for a name that is not in the table."""
    module, _, kind = KERNELS[name].partition(":")
    kernel: AttentionKernel = getattr(import_module(module), kind)()
    return kernel


def choose_kernel(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    num_heads: int = 1,
    kernels: Iterable[AttentionKernel] | None = None,
) -> AttentionKernel:
    """The first of `kernels` (None: the preferred ones) that runs there and is right; why others are not, is logged.

    Each is tried, because what a device and its libraries can do is not known before. Raises InvalidSetting where none
    is left, and what trying them raises of memory that ran out.
    """
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
    raise InvalidSetting(
        f"no attention kernel with log-sum-exp for {dtype} heads of {head_dim} on {device}{tried}; use --dtype float32"
    )


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two sets of keys, from the attention over each. All float32; written over `out_a`.

    out BSHD, lse BSH. Weights are exp(lse_x - logaddexp(lse_a, lse_b)) (Milakov and Gimelshein, arXiv 1805.02867).
    """
    lse = torch.logaddexp(lse_a, lse_b)
    out_a.mul_((lse_a - lse).exp_().unsqueeze(-1)).addcmul_(out_b, (lse_b - lse).exp_().unsqueeze(-1))
    return out_a, lse


def attend_more(
    merged: tuple[Tensor, Tensor] | None, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor, kernel: AttentionKernel
) -> tuple[Tensor, Tensor] | None:
    """What is merged so far (float32 output and log-sum-exp; None: nothing), with the attention to more keys."""
    if not q_BSHD.numel() or not k_BLHD.numel():
        return merged
    out, lse = kernel(q_BSHD, k_BLHD, v_BLHD)
    return (out.float(), lse) if merged is None else merge(*merged, out.float(), lse)
