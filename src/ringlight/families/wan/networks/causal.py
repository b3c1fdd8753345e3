"""Causal convolutions over a stream of frames: what the VAE is made of.

Activations are THWC: T frames, H rows, W columns, C channels, contiguous, batch always 1. Seen as BCTHW that is
channels-last, which convolutions want; norms over channels then run along memory.

A `Stream` keeps the last frames that each convolution has seen, so frames may come one by one or several at a time
with the same result. The frames may be bands of rows that lie on many ranks: of what a convolution of 3x3 sees, a rank
has its own rows and one halo row above and below, of history too, so that each row travels once.

What is done differently from the reference, with the same result to rounding:
- The first frame has only zeros before it, so of each 3x3x3 kernel only the last 3x3 is multiplied.
- How a convolution of many frames is computed is the kernel's to decide (`kernels/convolution`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.layers.convolution import Convolution
from ringlight.kernels.convolution import Arrive, Direct, FrameConvolution, convolve, lay_out
from ringlight.parallel.collective import collective
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
        self,
        convs: Sequence[CausalConv],
        bands: Bands,
        columns: int,
        like: Tensor,
        one_frame: bool,
        max_elements: int = MAX_ELEMENTS,
        frames_at_once: int = 0,
    ) -> None:
        """Start a stream through convolutions of a network whose latents have these rows and columns.

        What they see has the device and dtype of `like`. `one_frame`: nothing follows, so nothing is kept.
        `frames_at_once` go through the levels of a decoder at a time; 0 follows from the portion.
        """
        self.bands = bands
        self.max_elements = max_elements
        self.frames_at_once = frames_at_once
        self.extremes: list[Tensor] = []  # (2,) of each portion of frames: least and greatest, before they are clamped
        self._columns = columns
        self._history: dict[CausalConv, list[Tensor]] = {}
        self._started: set[CausalConv] = set()
        self._workspace: Tensor | None = None
        if not one_frame:
            self._allocate(convs, like)

    @property
    def history_bytes(self) -> int:
        return sum(frames.nbytes for history in self._history.values() for frames in history)

    def halo_of(self, conv: CausalConv) -> int:
        """Rows of its neighbours' bands that `conv` needs on each side."""
        return conv.padding[1] if self.bands.are_split else 0

    def begin(self, order: Sequence[tuple[CausalConv, int]]) -> None:
        """Announce the next convolutions and their numbers of frames. This stream ignores it."""

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
        """History of `conv`, of which a window of a single frame has none; before the first frame it is empty."""
        return self._history[conv] if self.has_history(conv) else []

    def skip(self, conv: CausalConv) -> None:
        """Pass the first frame by `conv`: what follows sees zeros in its place."""
        self._started.add(conv)

    def written(self, conv: CausalConv, whole: Tensor) -> None:
        """Note that a window is complete. In this stream it stays until it is kept."""

    def keep(self, conv: CausalConv, whole: Tensor) -> None:
        """Keep the last frames of a window, which has been convolved, as the history of what comes next."""
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

    def close(self) -> None:
        """Close the stream, after all frames or after an error. In this stream nothing is under way."""

    def _frame(self, conv: CausalConv) -> tuple[int, int, int]:
        """Rows with those of the neighbours, columns and channels of what `conv` sees."""
        rows = self.bands.size * conv.scale + 2 * self.halo_of(conv)
        return (rows, self._columns * conv.scale, conv.inputs)

    def _fits(self, conv: CausalConv) -> bool:
        """Whether a frame and its history have room in one tensor."""
        return (HISTORY + 1) * math.prod(self._frame(conv)) <= self.max_elements

    def _allocate(self, convs: Sequence[CausalConv], like: Tensor) -> None:
        shapes: list[tuple[CausalConv, tuple[int, ...]]] = []
        for conv in convs:
            frame = self._frame(conv)
            shapes += [(conv, (HISTORY, *frame))] if self._fits(conv) else HISTORY * [(conv, (1, *frame))]
        sizes = [math.prod(shape) for _, shape in shapes]
        parts = [part for run in _runs(sizes, self.max_elements) for part in like.new_zeros(sum(run)).split(run)]
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
    """Copy the input of a convolution without an activation."""
    out.copy_(x)


class CausalConv(nn.Module):
    """A convolution that sees the current and earlier frames; rows and columns are zero-padded to keep their number."""

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.inputs, *layer.kernel))
        self.bias = nn.Parameter(torch.empty(layer.channels))
        self.inputs = layer.inputs
        self.kernel_frames = layer.kernel[0]
        self.scale = layer.scale
        self.padding = (0, layer.kernel[1] // 2, layer.kernel[2] // 2)
        self.in_pairs = layer.in_pairs
        self.skips_first = layer.skips_first
        self._kernel: FrameConvolution | None = None

    def lay_out(self) -> None:
        """Lay the weight out as it is used."""
        self._kernel, self.weight.data = lay_out(self.weight.data, self.in_pairs)

    def forget_layout(self) -> None:
        """Give up what was laid out."""
        self._kernel = None

    def run(self, window: Tensor, stream: Stream, halo: Halo | None = None) -> Tensor:
        """Convolve a window from `stream.window`, and keep its last frames.

        If it has halo rows, `halo` is the part of them that is still to come, and no rows are padded.
        """
        arrive = None if halo is None else partial(_place, halo, window)
        if halo is None:
            stream.written(self, window)
        if len(window) > HISTORY:
            kernel = self._kernel or Direct(self.weight)
            out = kernel(window, self.bias, self.padding, arrive)
        else:
            out = self._convolve_frame(window, stream, arrive)
        if halo is not None:  # it came while the rest was convolved
            stream.written(self, window)
        stream.keep(self, window)
        return out

    def _convolve_frame(self, window: Tensor, stream: Stream, arrive: Arrive | None) -> Tensor:
        """Convolve a single frame, which stands apart from its history, if it has any."""
        padding = self.padding
        if arrive is not None:
            arrive()
            padding = (0, 0, self.padding[2])
        *before, last = self.weight.split(1, dim=2)
        out = convolve(window, last, self.bias, padding)
        for frame, weight in zip(stream.frames_before(self), before, strict=False):
            out += convolve(frame, weight, None, padding)
        return out

    @collective
    def forward(self, x_THWC: Tensor, stream: Stream) -> Tensor:
        if self.kernel_frames == 1:
            return convolve(x_THWC, self.weight, self.bias, self.padding)
        return self.convolve_activated(x_THWC, _copy, stream)

    @collective
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


def convs_with_history(network: nn.Module) -> list[CausalConv]:
    """All of a network that see earlier frames, in the order in which they run."""
    convs = (module for module in network.modules() if isinstance(module, CausalConv))
    return [conv for conv in convs if conv.kernel_frames > 1]


class RmsNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute x / |x| * sqrt(C) * gamma, the length in float32 whatever the dtype."""
        return self.fused(x) if x.device.type in FUSED_NORM_ON else self.into(x, torch.empty_like(x))

    def silu_into(self, x: Tensor, out: Tensor) -> None:
        """Write SiLU of the norm to `out`."""
        if x.device.type in FUSED_NORM_ON:
            torch.ops.aten.silu.out(self.fused(x), out=out)
        else:
            F.silu(self.into(x, out), inplace=True)

    def fused(self, x: Tensor) -> Tensor:
        """Compute the norm in torch's own kernel, which wants the least length as an addend to the mean square."""
        return F.rms_norm(x, self.gamma.shape, self.gamma, LEAST_LENGTH**2 / len(self.gamma))

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        """Write the norm to `out`."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(LEAST_LENGTH)
        inverse = length.reciprocal_().mul_(x.shape[-1] ** 0.5)
        if x.dtype == torch.float32:
            return torch.mul(x, inverse, out=out).mul_(self.gamma)
        return out.copy_(x.float().mul_(inverse)).mul_(self.gamma)


@collective
def norm_silu_conv(x: Tensor, norm: RmsNorm, conv: CausalConv, stream: Stream) -> Tensor:
    """conv(silu(norm(x)))."""
    return conv.convolve_activated(x, norm.silu_into, stream)
