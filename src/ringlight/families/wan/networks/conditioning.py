"""Conditions of the transformer's blocks: the prompt's keys and values, and the modulation by timesteps.

B batch (always 1), S tokens, C channels, H heads, D head width, L rows of text, R distinct timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ringlight.kernels.attention.kernel import AttentionKernel, merge


class TextKeys:
    """Keys and values of one prompt for one block: the rows that carry text, and what stands for the padding.

    `k_BLHD` and `v_BLHD` hold the true rows; `pad_k_HD` and `pad_v_HD` the single row that all padding shares, and
    `num_pad` how many there are of it.
    """

    def __init__(self, k_BLHD: Tensor, v_BLHD: Tensor, num_pad: int) -> None:
        self.num_pad = num_pad
        if num_pad:
            self.pad_k_HD, self.pad_v_HD = k_BLHD[0, -1], v_BLHD[0, -1]
            k_BLHD, v_BLHD = k_BLHD[:, :-1], v_BLHD[:, :-1]
        self.k_BLHD, self.v_BLHD = k_BLHD, v_BLHD

    def attend(self, q_BSHD: Tensor, kernel: AttentionKernel) -> Tensor:
        """Attention to all rows, padding included, in the dtype of q."""
        out, lse = kernel(q_BSHD, self.k_BLHD, self.v_BLHD)
        if self.num_pad:
            # In float32: this one score stands for all the padding, and what it loses is lost that many times.
            scores = torch.einsum("bshd,hd->bsh", q_BSHD.float(), self.pad_k_HD.float())
            pad_lse = scores.mul_(1 / math.sqrt(q_BSHD.shape[-1])).add_(math.log(self.num_pad))
            out, _ = merge(out.float(), lse, self.pad_v_HD.float(), pad_lse)
        return out.to(q_BSHD.dtype)


class WithImage:
    """Keys of a text and of a picture: each is attended to by a softmax of its own, and both are added."""

    def __init__(self, text: TextKeys, image: TextKeys) -> None:
        self._text, self._image = text, image

    def attend(self, q_BSHD: Tensor, kernel: AttentionKernel) -> Tensor:
        """Attention to the text and to the picture, added, in the dtype of q."""
        return self._text.attend(q_BSHD, kernel).add_(self._image.attend(q_BSHD, kernel))


Keys = TextKeys | WithImage


class Modulation:
    """Shift, scale and gate of the tokens, one row per distinct timestep; each row holds for a run of tokens.

    `rows` is (R, 6 or 2, C) in float32, `ends` the R token indices where each run ends.
    """

    def __init__(self, rows: Tensor, ends: tuple[int, ...]) -> None:
        self.rows = rows
        self.ends = ends

    def plus(self, table: Tensor) -> Modulation:
        """Modulation with a block's own table added to its rows."""
        return Modulation(self.rows + table, self.ends)

    def runs(self, start: int, stop: int) -> Iterator[tuple[Tensor, slice]]:
        """(row, slice of the tokens start..stop relative to start) of every run that touches start..stop."""
        begin = 0
        for row, end in zip(self.rows, self.ends, strict=True):
            low, high = max(begin, start), min(end, stop)
            if low < high:
                yield row, slice(low - start, high - start)
            begin = end

    def norm(self, x_BSC: Tensor, start: int, shift: int, dtype: torch.dtype, eps: float) -> Tensor:
        """layer_norm(x) * (1 + scale) + shift for tokens that begin at `start`; scale is the row after shift."""
        runs = list(self.runs(start, start + x_BSC.shape[1]))
        if len(runs) == 1:
            return self._norm_run(x_BSC, runs[0][0], shift, eps).to(dtype)
        out = x_BSC.new_empty(x_BSC.shape, dtype=dtype)
        for row, run in runs:
            out[:, run] = self._norm_run(x_BSC[:, run], row, shift, eps)
        return out

    @staticmethod
    def _norm_run(x_BSC: Tensor, row: Tensor, shift: int, eps: float) -> Tensor:
        return F.layer_norm(x_BSC, x_BSC.shape[-1:], 1 + row[shift + 1], row[shift], eps)

    def add_gated_(self, x_BSC: Tensor, update_BSC: Tensor, start: int, gate: int) -> None:
        """Compute x += update * gate, in place."""
        for row, run in self.runs(start, start + x_BSC.shape[1]):
            x_BSC[:, run].addcmul_(update_BSC[:, run], row[gate])
