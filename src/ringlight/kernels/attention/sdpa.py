"""PyTorch's fused attention kernels, called by their ATen names because only these return the log-sum-exp.

`F.scaled_dot_product_attention` chooses among the same kernels but drops it. Each kernel lays its log-sum-exp out in
its own way (padded to a multiple of 32, or with a trailing axis): here it always comes back as BSH in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.kernels.attention.reference import Reference

ATEN = torch.ops.aten
HALF_DTYPES = (torch.bfloat16, torch.float16)


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


class FlashCpu:
    """Flash attention on a CPU. With no queries or no keys it would end the process (SIGFPE), so that is refused."""

    name = "flash_cpu"

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        return device.type == "cpu" and dtype in (torch.float32, torch.float64, *HALF_DTYPES)

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        assert q_BSHD.numel() and k_BLHD.numel(), "flash attention on a CPU needs at least one query and one key"
        out_BHSD, lse_BHS = ATEN._scaled_dot_product_flash_attention_for_cpu(*_heads_first(q_BSHD, k_BLHD, v_BLHD))
        return out_BHSD.transpose(1, 2), lse_BHS.transpose(1, 2)


class Cudnn:
    """cuDNN's fused attention: the fastest on Hopper and later. A single query or key, which it refuses, needs none."""

    name = "cudnn"

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        return (
            device.type == "cuda"
            and dtype in HALF_DTYPES
            and head_dim % 8 == 0
            and head_dim <= 128
            and torch.cuda.get_device_capability(device) >= (9, 0)
            and torch.backends.cuda.cudnn_sdp_enabled()
        )

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        if 1 in (q_BSHD.shape[1], k_BLHD.shape[1]):
            return Reference()(q_BSHD, k_BLHD, v_BLHD)
        out_BHSD, lse, *_ = ATEN._scaled_dot_product_cudnn_attention(
            *_heads_first(q_BSHD, k_BLHD, v_BLHD), None, True, 0.0, False, False
        )
        lse_BHS = lse.squeeze(-1) if lse.dim() == 4 else lse
        return out_BHSD.transpose(1, 2), lse_BHS.transpose(1, 2)


class Flash:
    """FlashAttention-2 (arXiv 2307.08691) on CUDA."""

    name = "flash"

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        return (
            device.type == "cuda"
            and dtype in HALF_DTYPES
            and head_dim % 8 == 0
            and head_dim <= 256
            and torch.cuda.get_device_capability(device) >= (8, 0)
            and torch.backends.cuda.is_flash_attention_available()
        )

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        out_BHSD, lse_BHS, *_ = ATEN._scaled_dot_product_flash_attention(*_heads_first(q_BSHD, k_BLHD, v_BLHD))
        return out_BHSD.transpose(1, 2), lse_BHS[..., : q_BSHD.shape[1]].transpose(1, 2)


class Efficient:
    """Memory-efficient attention (arXiv 2112.05682) on CUDA: the one that takes float32."""

    name = "efficient"

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        needed = (8, 0) if dtype == torch.bfloat16 else (5, 0)
        return (
            device.type == "cuda"
            and dtype in (torch.float32, *HALF_DTYPES)
            and head_dim % 8 == 0
            and torch.cuda.get_device_capability(device) >= needed
        )

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        out_BHSD, lse_BHS, *_ = ATEN._scaled_dot_product_efficient_attention(
            *_heads_first(q_BSHD, k_BLHD, v_BLHD), None, True
        )
        return out_BHSD.transpose(1, 2), lse_BHS[..., : q_BSHD.shape[1]].transpose(1, 2)
