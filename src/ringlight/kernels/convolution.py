"""Convolutions over frames, rows and columns: the plain one, and pairs of frames by Winograd's F(2, 3) on a CPU.

Activations are THWC: T frames, H rows, W columns, C channels; O channels come out. A kernel of three frames sees the
two before each new one, its history, which stands before them in the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ringlight.core.portions import HISTORY, takes_pairs

SUMMED_ELEMENTS = 2**18  # of a weight at a time, in float64

Arrive = Callable[[], object]  # writes the first and the last row of the new frames, which are still on their way


def convolve(
    x_THWC: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, ...],
    stride: tuple[int, ...] = (1, 1, 1),
) -> Tensor:
    """A 3-D convolution of THWC by a weight (O, C, kt, kh, kw), as THWO.

    On a CPU oneDNN is called by name: torch's own choice for one thread often falls into a slower kernel.
    """
    x = x_THWC.unsqueeze(0).permute(0, 4, 1, 2, 3)  # so that the batch has the stride that channels-last wants
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        out = torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    else:
        out = F.conv3d(x, weight, bias, stride, padding)
    return out.squeeze(0).permute(1, 2, 3, 0).contiguous()


class FrameConvolution(Protocol):
    """A convolution of frames behind their history, by a weight (O, C, kt, kh, kw)."""

    def __call__(self, window: Tensor, bias: Tensor, padding: tuple[int, int, int], arrive: Arrive | None) -> Tensor:
        """Convolve a window of history and new frames.

        With `arrive` it has a row of each neighbour at its edges. Those rows of the new frames are there once `arrive`
        was called, and no rows are padded.
        """


class Direct:
    """The convolution as it is written."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, window: Tensor, bias: Tensor, padding: tuple[int, int, int], arrive: Arrive | None) -> Tensor:
        if arrive is not None:
            arrive()
            padding = _of_columns(padding)
        return convolve(window, self._weight, bias, padding)


class WinogradPairs:
    """Frames two by two, by four products in the place of six (F(2, 3) along time, arXiv 1509.09308).

    No less exact in float32. `weights` (4O, C, kh, kw) are made of a kernel of three frames by `sums_of`.
    """

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def __call__(self, window: Tensor, bias: Tensor, padding: tuple[int, int, int], arrive: Arrive | None) -> Tensor:
        """Convolve pair by pair, so that the products stay small; rows that see a halo come last, while it travels."""
        own = window if arrive is None else window[:, 1:-1]
        out = window.new_empty(len(window) - HISTORY, *own.shape[1:3], len(bias))
        inner, rows = (out, padding) if arrive is None else (out[:, 1:-1], _of_columns(padding))
        if inner.numel():
            for start in range(0, len(out), 2):
                self._pair(own[start : start + 4].split(1), bias, inner[start : start + 2].split(1), rows)
        if arrive is not None:
            arrive()
            self._edges(window, bias, out, _of_columns(padding))
        return out

    def _edges(self, window: Tensor, bias: Tensor, out: Tensor, padding: tuple[int, int, int]) -> None:
        """Compute the first and the last row of `out`, of all pairs at once."""
        pairs = len(out) // 2
        seen = [window[frame : frame + 2 * pairs - 1 : 2] for frame in range(4)]
        edges = [torch.cat([frames[:, :3], frames[:, -3:]]) for frames in seen]
        made = out.new_empty(2, 2 * pairs, 1, *out.shape[2:])
        self._pair(edges, bias, made.unbind(0), padding)
        for frame in (0, 1):
            out[frame::2, :1], out[frame::2, -1:] = made[frame].chunk(2)

    def _pair(
        self, frames: Sequence[Tensor], bias: Tensor, out: Sequence[Tensor], padding: tuple[int, int, int]
    ) -> None:
        """Compute a pair of new frames from the four frames a, b, c, d that it sees.

        p = k0 (a - c), q = (k0+k1+k2)/2 (b + c), r = (k0-k1+k2)/2 (c - b), s = k2 (b - d); p + q + r and q - r - s.
        """
        first, plus, minus, last = (weight.unsqueeze(2) for weight in self._weights.chunk(4))
        a, b, c, d = frames
        mixed = torch.empty_like(a)
        q = convolve(torch.add(b, c, out=mixed), plus, None, padding)
        p = convolve(torch.sub(a, c, out=mixed), first, bias, padding).add_(q)
        r = convolve(torch.sub(c, b, out=mixed), minus, None, padding)
        torch.add(p, r, out=out[0])
        s = convolve(torch.sub(b, d, out=mixed), last, -bias, padding)
        torch.sub(q.sub_(r), s, out=out[1])


def sums_of(weight: Tensor) -> Tensor:
    """Sums of a weight (O, C, 3, kh, kw) for pairs of frames: four kernels (4O, C, kh, kw), channels last.

    They are made few at a time, which stay in a core's cache: in less than half of the time of all at once.
    """
    outputs, inputs, _, *window = weight.shape
    sums = torch.empty(4 * outputs, inputs, *window, dtype=weight.dtype, memory_format=torch.channels_last)
    rows = max(1, SUMMED_ELEMENTS * outputs // weight.numel())
    for made, some in zip(sums.unflatten(0, (4, outputs)).split(rows, dim=1), weight.split(rows), strict=True):
        first, middle, last = some.double().unbind(2)
        outer = first + last
        for kernel, values in zip(made, (first, (outer + middle) / 2, (outer - middle) / 2, last), strict=True):
            kernel.copy_(values)
    return sums


def lay_out(weight: Tensor, in_pairs: bool) -> tuple[FrameConvolution, Tensor]:
    """Choose the fastest way to convolve by a weight, for frames that come `in_pairs` or not; returns its layout too.

    Pairs keep four 3x3 kernels in the place of the 3x3x3, and of that the last frame, which single frames need.
    """
    pays = takes_pairs(weight.device.type == "cpu", weight.dtype == torch.float32)
    if pays and in_pairs and weight.shape[2] == 1 + HISTORY:
        sums = sums_of(weight)
        return WinogradPairs(sums), sums.chunk(4)[-1].unsqueeze(2)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    return Direct(weight), weight


def _of_columns(padding: tuple[int, int, int]) -> tuple[int, int, int]:
    return (0, 0, padding[2])
