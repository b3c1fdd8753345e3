"""The yardstick: attention written out, in float32 or better, with all scores in memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Reference:
    """softmax(q k^T / sqrt(D)) v, computed in float32 (float64 stays float64)."""

    name = "reference"

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        return True

    def __call__(self, q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q_BSHD.dtype, torch.float32)
        q_BHSD, k_BHLD, v_BHLD = (x.transpose(1, 2).to(wide) for x in (q_BSHD, k_BLHD, v_BLHD))
        scores_BHSL = q_BHSD @ k_BHLD.mT / math.sqrt(q_BSHD.shape[-1])
        lse_BHS = scores_BHSL.logsumexp(-1)
        out_BHSD = (scores_BHSL - lse_BHS.unsqueeze(-1)).exp() @ v_BHLD
        return out_BHSD.transpose(1, 2).to(q_BSHD.dtype), lse_BHS.transpose(1, 2).float()
