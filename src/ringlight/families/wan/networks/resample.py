"""The VAE's changes of resolution: half or twice the rows, columns and frames, some beside shortcuts without weights.

T frames, H rows, W columns, C channels, as in causal.py. What is done differently, with the same result to rounding:
- Doubling rows and columns and then convolving 3x3 is one 2x2 convolution with four sets of summed weights.
- Shortcuts that repeat values are added in place, never built.
Of a band, the rows that need the neighbours' come last, so that these travel meanwhile.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.families.layers.convolution import Convolution
from ringlight.families.layers.decoder import UpLayers
from ringlight.families.layers.encoder import DownLayers
from ringlight.families.wan.networks.causal import CausalConv, Stream
from ringlight.families.wan.networks.residual import ResidualBlock
from ringlight.kernels.convolution import convolve
from ringlight.parallel.halo import Halo


class Upsampler(nn.Module):
    """Upsampler of rows and columns by two, and of frames by two if `temporal` (but for the very first frame)."""

    def __init__(self, layer: Convolution, time_conv: Convolution | None) -> None:
        super().__init__()
        self.channels = layer.channels
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(layer.channels))
        self.time_conv = None if time_conv is None else CausalConv(time_conv)
        self._phases: tuple[Tensor, Tensor] | None = None

    def lay_out(self) -> None:
        """Make the weights of the phases, which are used in the place of those that are loaded."""
        self._phase_weights()

    def forget_layout(self) -> None:
        """Give up the phases' weights."""
        self._phases = None

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, self.time_conv, stream, first)
        frames, rows, columns, _ = x.shape
        out = x.new_empty(frames, rows, 2, columns, 2, self.channels)
        halo = Halo(x[:, :1].contiguous(), x[:, -1:].contiguous(), stream.bands) if stream.bands.are_split else None
        for frame in range(frames):
            self._double_pixels(x[frame : frame + 1], out[frame : frame + 1], padding=0 if halo else 1)
        if halo:
            self._double_edges(x, out, *halo.wait())
        return out.view(frames, 2 * rows, 2 * columns, self.channels)

    def _double_pixels(self, x: Tensor, out: Tensor, padding: int) -> None:
        """Double the pixels of one frame (1, h, w, C) into `out` (1, h, 2, w, 2, C), so that the phases stay small.

        Without padding the first and the last of the 2h rows, which see rows that are not in `x`, are left as they are.
        """
        _, rows, columns, _ = x.shape
        left_out = 1 - padding
        rows -= left_out
        if not rows:
            return
        weight, bias = self._phase_weights()
        phases = convolve(x, weight, bias, (0, padding, 1)).unflatten(-1, (2, 2, self.channels))
        for row in (0, 1):
            start, first = padding * row, left_out * (1 - row)
            for column in (0, 1):
                source = phases[:, start : start + rows, column : column + columns, row, column]
                out[:, first : first + rows, row, :, column] = source

    def _double_edges(self, x: Tensor, out: Tensor, above: Tensor, below: Tensor) -> None:
        """Double the first and the last rows of all frames (T, h, w, C), with the rows beyond `x`."""
        columns = x.shape[2]
        weights, biases = self._phase_weights()
        for row, pair in enumerate(((above, x[:, :1]), (x[:, -1:], below))):
            weight, bias = weights.chunk(2)[row], biases.chunk(2)[row]
            phases = convolve(torch.cat(pair, dim=1), weight, bias, (0, 0, 1)).unflatten(-1, (2, self.channels))
            for column in (0, 1):
                out[:, -row, row, :, column] = phases[:, 0, column : column + columns, column]

    def _double_frames(self, x: Tensor, conv: CausalConv, stream: Stream, first: bool) -> Tensor:
        """Double the frames: 2t and 2t+1 are the halves of the convolution's channels.

        The first frame stays one frame, and what follows sees zeros in its place.
        """
        if first:
            assert len(x) == 1, "the first latent frame goes through the decoder alone"
            stream.skip(conv)
            return x
        doubled: Tensor = conv(x, stream).unflatten(-1, (2, x.shape[-1]))
        return doubled.permute(0, 3, 1, 2, 4).flatten(0, 1)

    def _phase_weights(self) -> tuple[Tensor, Tensor]:
        """Weights (4C, C, 1, 2, 2) and biases of the four phases: output pixel (2i+row, 2j+column) sees a 2x2 window.

        Nearest-neighbour doubling repeats each pixel, so of three kernel rows two fall on the same input row: for even
        output rows (row 0) the window is rows i-1, i with weights w0, w1+w2; for odd ones rows i, i+1 with w0+w1, w2.
        """
        if self._phases is None:
            first, middle, last = self.weight.float().unbind(2)
            by_row = [torch.stack(pair, dim=2) for pair in ((first, middle + last), (first + middle, last))]
            phases = []
            for rows in by_row:
                first, middle, last = rows.unbind(3)
                phases += [torch.stack(pair, dim=3) for pair in ((first, middle + last), (first + middle, last))]
            weight = torch.cat(phases).unsqueeze(2).to(self.weight.dtype)
            self._phases = (weight.contiguous(memory_format=torch.channels_last_3d), self.bias.repeat(4))
        return self._phases


class UpBlock(nn.Module):
    """Residual blocks, then an upsampler; in some VAEs beside a shortcut that repeats values (DupUp3D)."""

    def __init__(self, layers: UpLayers) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(map(ResidualBlock, layers.residuals))
        self.upsampler = None if layers.upsample is None else Upsampler(layers.upsample, layers.time_conv)
        self.repeats = layers.repeats
        self.frame_factor = 1 if layers.time_conv is None else 2

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden, stream)
        if self.upsampler is None:
            return hidden
        out: Tensor = self.upsampler(hidden, stream, first)
        if self.repeats:
            add_repeated_(out, x, self.frame_factor, first)
        return out


def add_repeated_(out: Tensor, x: Tensor, frame_factor: int, first: bool) -> None:
    """Compute out += DupUp3D(x), in place: each value repeated over 2x2 pixels and `frame_factor` frames.

    The reference repeats channels and deals them out over the new positions: output channel o at offset n of `factor`
    takes input channel (o * factor + n) // repeats. For the first frame only the last of the new frames exists.
    """
    frames, rows, columns, channels = x.shape
    out_channels = out.shape[-1]
    factor = 4 * frame_factor
    repeats = out_channels * factor // channels
    frame_offsets = [frame_factor - 1] if first else list(range(frame_factor))
    target = out.view(frames, len(frame_offsets), rows, 2, columns, 2, out_channels)
    for position, frame in enumerate(frame_offsets):
        for row in (0, 1):
            for column in (0, 1):
                offset = (frame * 2 + row) * 2 + column
                if factor % repeats == 0:
                    source = x[..., offset // repeats :: factor // repeats]
                else:
                    index = (torch.arange(out_channels, device=x.device) * factor + offset) // repeats
                    source = x[..., index]
                target[:, position, :, row, :, column] += source


class Downsampler(nn.Module):
    """Downsampler of rows and columns by two, and of frames by two if `temporal` (but for the very first frame)."""

    def __init__(self, layer: Convolution, time_conv: Convolution | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(layer.channels))
        self.time_conv = None if time_conv is None else CausalConv(time_conv)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        halo = Halo(x[:, :1].contiguous(), None, stream.bands) if stream.bands.are_split else None
        padded = F.pad(x, (0, 0, 0, 1, 0, 1))
        if halo:
            _, padded[:, -1:, :-1] = halo.wait()
        x = convolve(padded, self.weight.unsqueeze(2), self.bias, (0, 0, 0), (1, 2, 2))
        if self.time_conv is None:
            return x
        if not stream.has_history(self.time_conv):
            assert len(x) == 1, "the first frame goes through the encoder alone"
            stream.keep(self.time_conv, x)
            return x
        whole, new = stream.window(self.time_conv, x, len(x))
        new.copy_(x)
        out = convolve(whole[1:], self.time_conv.weight, self.time_conv.bias, (0, 0, 0), (2, 1, 1))
        stream.keep(self.time_conv, whole)
        return out


class DownBlock(nn.Module):
    """Residual blocks and a downsampler; in some VAEs beside a shortcut that averages (AvgDown3D)."""

    def __init__(self, layers: DownLayers) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(map(ResidualBlock, layers.residuals))
        self.downsampler = None if layers.downsample is None else Downsampler(layers.downsample, layers.time_conv)
        self.averages = layers.averages
        self.factors = (1 if layers.time_conv is None else 2, 1 if layers.downsample is None else 2)
        self.out_channels = layers.residuals[-1].conv2.channels

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden, stream)
        if self.downsampler is not None:
            hidden = self.downsampler(hidden, stream)
        out: Tensor = hidden + self._averaged(x) if self.averages else hidden
        return out

    def _averaged(self, x: Tensor) -> Tensor:
        """AvgDown3D: offsets become channels, and groups of channels their mean. Missing frames count as zeros."""
        time, space = self.factors
        x = F.pad(x, (0, 0, 0, 0, 0, 0, -len(x) % time, 0))
        frames, rows, columns, channels = x.shape
        parts = x.view(frames // time, time, rows // space, space, columns // space, space, channels)
        stacked = parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(
            frames // time, rows // space, columns // space, self.out_channels, -1
        )
        mean: Tensor = stacked.mean(-1)
        return mean
