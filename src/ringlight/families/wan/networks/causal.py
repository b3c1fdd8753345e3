"""Causal convolutions over a stream of frames: what the VAE is made of.

Activations are THWC: T frames, H rows, W columns, C channels, contiguous, batch always 1. Seen as BCTHW that is
channels-last, which convolutions want; norms over channels then run along memory.

A `Stream` keeps the last frames that each convolution has seen, so frames may come one by one or several at a time
with the same result. The frames may be bands of rows that lie on many ranks: of what a convolution of 3x3 sees, a rank
has its own rows and one halo row above and below, of history too, so that each row travels once.

What is done differently from the reference, with the same result to rounding:
- The first frame has only zeros before it, so of each 3x3x3 kernel only the last 3x3 is multiplied.
- Where frames come in twos, a kernel of three frames takes four 3x3 convolutions per pair instead of six (Winograd's
  F(2, 3) along time, arXiv 1509.09308), no less exact in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.core.portions import MAX_ELEMENTS
from ringlight.families.layers.convolution import HISTORY, Convolution
from ringlight.parallel.halo import Bands, Halo

FUSED_NORM_ON = ("cuda",)  # on a CPU F.rms_norm takes nearly twice as long as three operations (docs/log.md)
LEAST_LENGTH = 1e-12  # of a pixel's channels that are normed


class Stream:
    """One video on its way through the encoder or the decoder: history per convolution, and one shared workspace.

    All history is allocated at the start, in as few tensors as may be, so that it does not break up the memory that
    activations come and go in. No tensor has more than `max_elements`: a convolution whose frame would not fit into
    one together with its history has its history frame by frame.
    """

    def __init__(
        self, network: nn.Module, bands: Bands, columns: int, one_frame: bool, max_elements: int = MAX_ELEMENTS
    ) -> None:
        """For a network whose latents have these rows and columns. `one_frame`: nothing follows, so nothing is kept."""
        self.bands = bands
        self.max_elements = max_elements
        self.extremes: list[Tensor] = []  # (2,) of each portion of frames: least and greatest, before they are clamped
        self._history: dict[CausalConv, list[Tensor]] = {}
        self._started: set[CausalConv] = set()
        self._workspace: Tensor | None = None
        if not one_frame:
            self._allocate([conv for conv in network.modules() if isinstance(conv, CausalConv)], columns)

    @property
    def history_bytes(self) -> int:
        return sum(frames.nbytes for history in self._history.values() for frames in history)

    def halo_of(self, conv: CausalConv) -> int:
        """Rows of its neighbours' bands that `conv` needs on each side."""
        return conv.padding[1] if self.bands.are_split else 0

    def window(self, conv: CausalConv, like: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """(whole, new): the input of `conv` with its history before it, and the part of it to write new frames to.

        Both have halo rows beside the rows of `like`. Before the first frame there is no history: with a single frame
        the window is that frame alone; so it is where history is kept frame by frame (`frames_before`).
        """
        shape = (like.shape[1] + 2 * self.halo_of(conv), *like.shape[2:])
        if num_frames == 1 and (not self.has_history(conv) or len(self._history[conv]) > 1):
            whole = self._scratch(like, (1, *shape))
            return whole, whole
        whole = self._scratch(like, (HISTORY + num_frames, *shape))
        for old, frames in zip(whole[:HISTORY].chunk(len(self._history[conv])), self._history[conv], strict=True):
            old.copy_(frames)
        return whole, whole[HISTORY:]

    def frames_before(self, conv: CausalConv) -> list[Tensor]:
        """The history of `conv`, of which a window of a single frame has none; before the first frame it is empty."""
        return self._history[conv] if self.has_history(conv) else []

    def keep(self, conv: CausalConv, whole: Tensor) -> None:
        """Keep the last frames of a window as the history of what comes next."""
        self._started.add(conv)
        if not self._history:
            return
        kept, history = whole[-HISTORY:], self._history[conv]
        if len(history) == 1:
            history[0][HISTORY - len(kept) :].copy_(kept)
            return
        for frame in kept.split(1):
            history.append(history.pop(0).copy_(frame))

    def has_history(self, conv: CausalConv) -> bool:
        return conv in self._started

    def _allocate(self, convs: list[CausalConv], columns: int) -> None:
        shapes: list[tuple[CausalConv, tuple[int, ...]]] = []
        for conv in convs:
            if conv.kernel_frames > 1:
                rows = self.bands.size * conv.scale + 2 * self.halo_of(conv)
                frame = (rows, columns * conv.scale, conv.weight.shape[1])
                is_whole = (HISTORY + 1) * math.prod(frame) <= self.max_elements
                shapes += [(conv, (HISTORY, *frame))] if is_whole else HISTORY * [(conv, (1, *frame))]
        sizes = [math.prod(shape) for _, shape in shapes]
        parts = [
            part for run in _runs(sizes, self.max_elements) for part in convs[0].bias.new_zeros(sum(run)).split(run)
        ]
        for (conv, shape), part in zip(shapes, parts, strict=True):
            self._history.setdefault(conv, []).append(part.view(shape))

    def _scratch(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Room for a tensor of this shape, shared by all convolutions of the stream in turn."""
        size = math.prod(shape)
        if self._workspace is None or self._workspace.numel() < size:
            self._workspace = None  # freed before the larger one is made
            self._workspace = like.new_empty(size)
        return self._workspace[:size].view(shape)


def _runs(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Sizes in runs of neighbours, each run as long as its sum is at most `most`."""
    runs: list[list[int]] = [[]]
    for size in sizes:
        if sum(runs[-1]) + size > most:
            runs.append([])
        runs[-1].append(size)
    return runs


Activation = Callable[[Tensor, Tensor], object]  # writes what a convolution sees of its first argument to the second


def _place(halo: Halo, window: Tensor) -> None:
    """Write the halo rows of new frames into their window, once they have come."""
    for edge, rows in zip((slice(None, 1), slice(-1, None)), halo.wait(), strict=True):
        window[-len(rows) :, edge] = rows


def _copy(x: Tensor, out: Tensor) -> None:
    """The activation of what is convolved as it is."""
    out.copy_(x)


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


class CausalConv(nn.Module):
    """A convolution that sees the current and earlier frames; rows and columns are zero-padded to keep their number."""

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.inputs, *layer.kernel))
        self.bias = nn.Parameter(torch.empty(layer.channels))
        self.kernel_frames = layer.kernel[0]
        self.scale = layer.scale
        self.padding = (0, layer.kernel[1] // 2, layer.kernel[2] // 2)
        self.in_pairs = layer.in_pairs
        self._pair_weights: Tensor | None = None

    def optimise_layout(self) -> None:
        """Lay the weight out as it is used. With pairs on a CPU that is four 3x3 kernels and no longer the 3x3x3."""
        if (
            self.in_pairs
            and self.kernel_frames == 3
            and self.weight.device.type == "cpu"
            and self.weight.dtype == torch.float32
        ):
            first, middle, last = self.weight.double().unbind(2)
            outer = first + last
            sums = torch.cat([first, (outer + middle) / 2, (outer - middle) / 2, last]).float()
            self._pair_weights = sums.contiguous(memory_format=torch.channels_last)
            self.weight.data = self._pair_weights.chunk(4)[-1].unsqueeze(2)
        else:
            self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def run(self, window: Tensor, stream: Stream, halo: Halo | None = None) -> Tensor:
        """Convolve a window from `stream.window`, and keep its last frames. Where it has halo rows, `halo` is what is
        still to come of them, and no rows are padded."""
        if self._pair_weights is not None and len(window) > HISTORY:
            out = self._convolve_pairs(window, self._pair_weights, halo)
        else:
            if halo is not None:
                _place(halo, window)
            padding = self.padding if halo is None else self._padding_of_columns
            if len(window) > HISTORY:
                out = convolve(window, self.weight, self.bias, padding)
            else:
                *before, last = self.weight.split(1, dim=2)
                out = convolve(window, last, self.bias, padding)
                for frame, weight in zip(stream.frames_before(self), before, strict=False):
                    out += convolve(frame, weight, None, padding)
        stream.keep(self, window)
        return out

    @property
    def takes_pairs(self) -> bool:
        """Whether frames after the first one must come in even numbers."""
        return self._pair_weights is not None

    @property
    def _padding_of_columns(self) -> tuple[int, int, int]:
        return (0, 0, self.padding[2])

    def _convolve_pairs(self, window: Tensor, weights: Tensor, halo: Halo | None) -> Tensor:
        """Pair of frames by pair, so that the products stay small; the rows that see a halo last, while it travels."""
        own = window if halo is None else window[:, 1:-1]
        out = window.new_empty(len(window) - HISTORY, *own.shape[1:3], len(self.bias))
        inner, padding = (out, self.padding) if halo is None else (out[:, 1:-1], self._padding_of_columns)
        if inner.numel():
            for start in range(0, len(out), 2):
                targets = inner[start : start + 2].split(1)
                self._convolve_pair(own[start : start + 4].split(1), weights, targets, padding)
        if halo is not None:
            _place(halo, window)
            self._convolve_edges(window, weights, out)
        return out

    def _convolve_edges(self, window: Tensor, weights: Tensor, out: Tensor) -> None:
        """The first and the last row of `out`, of all pairs at once."""
        pairs = len(out) // 2
        seen = [window[frame : frame + 2 * pairs - 1 : 2] for frame in range(4)]
        edges = [torch.cat([frames[:, :3], frames[:, -3:]]) for frames in seen]
        made = out.new_empty(2, 2 * pairs, 1, *out.shape[2:])
        self._convolve_pair(edges, weights, made.unbind(0), self._padding_of_columns)
        for frame in (0, 1):
            out[frame::2, :1], out[frame::2, -1:] = made[frame].chunk(2)

    def _convolve_pair(
        self, frames: Sequence[Tensor], weights: Tensor, out: Sequence[Tensor], padding: tuple[int, int, int]
    ) -> None:
        """A pair of new frames from the four frames a, b, c, d that it sees, by four products instead of six:

        p = k0 (a - c), q = (k0+k1+k2)/2 (b + c), r = (k0-k1+k2)/2 (c - b), s = k2 (b - d); p + q + r and q - r - s.
        """
        first, plus, minus, last = (weight.unsqueeze(2) for weight in weights.chunk(4))
        a, b, c, d = frames
        mixed = torch.empty_like(a)
        q = convolve(torch.add(b, c, out=mixed), plus, None, padding)
        p = convolve(torch.sub(a, c, out=mixed), first, self.bias, padding).add_(q)
        r = convolve(torch.sub(c, b, out=mixed), minus, None, padding)
        torch.add(p, r, out=out[0])
        s = convolve(torch.sub(b, d, out=mixed), last, -self.bias, padding)
        torch.sub(q.sub_(r), s, out=out[1])

    def forward(self, x_THWC: Tensor, stream: Stream) -> Tensor:
        if self.kernel_frames == 1:
            return convolve(x_THWC, self.weight, self.bias, self.padding)
        return self.convolve_activated(x_THWC, _copy, stream)

    def convolve_activated(self, x_THWC: Tensor, activate: Activation, stream: Stream) -> Tensor:
        """Convolve an activation of `x_THWC`, written straight into the window.

        Of a band, the edge rows are written first: they travel to the neighbours while the rest is written.
        """
        whole, new = stream.window(self, x_THWC, len(x_THWC))
        if not stream.halo_of(self):
            activate(x_THWC, new)
            return self.run(whole, stream)
        edges = torch.stack([x_THWC[:, :1], x_THWC[:, -1:]])
        first, last = activated = torch.empty_like(edges)
        activate(edges, activated)
        halo = Halo(first, last, stream.bands)
        activate(x_THWC[:, 1:-1], new[:, 2:-2])
        new[:, 1:2] = first
        new[:, -2:-1] = last
        return self.run(whole, stream, halo)


class RmsNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x / |x| * sqrt(C) * gamma, the length in float32 whatever the dtype."""
        return self.fused(x) if x.device.type in FUSED_NORM_ON else self.into(x, torch.empty_like(x))

    def silu_into(self, x: Tensor, out: Tensor) -> None:
        """SiLU of it, written to `out`."""
        if x.device.type in FUSED_NORM_ON:
            torch.ops.aten.silu.out(self.fused(x), out=out)
        else:
            F.silu(self.into(x, out), inplace=True)

    def fused(self, x: Tensor) -> Tensor:
        """The same in torch's own kernel, which wants the least length as an addend to the mean square."""
        return F.rms_norm(x, self.gamma.shape, self.gamma, LEAST_LENGTH**2 / len(self.gamma))

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        """The same, written to `out`."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(LEAST_LENGTH)
        inverse = length.reciprocal_().mul_(x.shape[-1] ** 0.5)
        if x.dtype == torch.float32:
            return torch.mul(x, inverse, out=out).mul_(self.gamma)
        return out.copy_(x.float().mul_(inverse)).mul_(self.gamma)


def norm_silu_conv(x: Tensor, norm: RmsNorm, conv: CausalConv, stream: Stream) -> Tensor:
    """conv(silu(norm(x)))."""
    return conv.convolve_activated(x, norm.silu_into, stream)
