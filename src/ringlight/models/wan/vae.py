"""The VAE of Wan2.2 (AutoencoderKLWan of diffusers, residual kind, is the reference for its numbers), as a stream.

Activations are THWC: T frames, H rows, W columns, C channels, contiguous, batch always 1. Seen as BCTHW that is
channels-last, which convolutions want; norms over channels then run along memory.

The network is causal in time. A `Stream` keeps the last frames that each convolution has seen, so frames may come one
by one or several at a time with the same result. What is done differently, with the same result to rounding:
- The first frame has only zeros before it, so of each 3x3x3 kernel only the last 3x3 is multiplied.
- Where frames come in twos, a kernel of three frames takes four 3x3 convolutions per pair instead of six (Winograd's
  F(2, 3) along time, arXiv 1509.09308), no less exact in float32.
- Doubling rows and columns and then convolving 3x3 is one 2x2 convolution with four sets of summed weights.
- Shortcuts that repeat values are added in place, never built.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.core.spec import VaeSpec

HISTORY = 2  # frames before the current one that a kernel of three reaches


class Stream:
    """One video on its way through the encoder or the decoder: history per convolution, and one shared workspace."""

    def __init__(self) -> None:
        self._history: dict[CausalConv, Tensor] = {}
        self._workspace: Tensor | None = None

    def window(self, conv: CausalConv, like: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """(whole, new): the input of `conv` with its history before it, and the part of it to write new frames to.

        Before the first frame there is no history: with a single frame the window is that frame alone.
        """
        history = self._history.get(conv)
        if history is None and num_frames == 1:
            whole = self._scratch(like, 1)
            return whole, whole
        whole = self._scratch(like, HISTORY + num_frames)
        if history is None:
            whole[:HISTORY].zero_()
        else:
            whole[:HISTORY].copy_(history)
        return whole, whole[HISTORY:]

    def keep(self, conv: CausalConv, whole: Tensor) -> None:
        """Keep the last frames of a window as the history of what comes next."""
        history = self._history.get(conv)
        if history is None:
            history = self._history[conv] = whole.new_zeros((HISTORY, *whole.shape[1:]))
        kept = whole[-HISTORY:]
        history[HISTORY - len(kept) :].copy_(kept)

    def has_history(self, conv: CausalConv) -> bool:
        return conv in self._history

    def _scratch(self, like: Tensor, num_frames: int) -> Tensor:
        """Room for `num_frames` frames shaped like `like`'s, shared by all convolutions of the stream in turn."""
        shape = (num_frames, *like.shape[1:])
        size = num_frames * like[0].numel()
        if self._workspace is None or self._workspace.numel() < size:
            self._workspace = None  # freed before the larger one is made
            self._workspace = like.new_empty(size)
        return self._workspace[:size].view(shape)


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
    x = x_THWC.permute(3, 0, 1, 2).unsqueeze(0)
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        out = torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    else:
        out = F.conv3d(x, weight, bias, stride, padding)
    return out.squeeze(0).permute(1, 2, 3, 0).contiguous()


class CausalConv(nn.Module):
    """A convolution that sees the current and earlier frames; rows and columns are zero-padded to keep their number."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], in_pairs: bool = False
    ) -> None:
        """`in_pairs`: after the first frame, frames always come in even numbers."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.kernel_frames = kernel[0]
        self.padding = (0, kernel[1] // 2, kernel[2] // 2)
        self.in_pairs = in_pairs
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

    def run(self, window: Tensor, stream: Stream) -> Tensor:
        """Convolve a window from `stream.window`, and keep its last frames."""
        if len(window) < self.kernel_frames:
            out = convolve(window, self.weight[:, :, -1:], self.bias, self.padding)
        elif self._pair_weights is not None:
            out = self._convolve_pairs(window, self._pair_weights)
        else:
            out = convolve(window, self.weight, self.bias, self.padding)
        stream.keep(self, window)
        return out

    def _convolve_pairs(self, window: Tensor, weights: Tensor) -> Tensor:
        """Each pair of new frames from the four frames a, b, c, d that it sees, by four products instead of six:

        p = k0 (a - c), q = (k0+k1+k2)/2 (b + c), r = (k0-k1+k2)/2 (c - b), s = k2 (b - d); p + q + r and q - r - s.
        """
        num_pairs = (len(window) - HISTORY) // 2
        a, b, c, d = (window[i : i + 2 * num_pairs : 2] for i in range(4))
        mixed = torch.empty_like(a)
        first, plus, minus, last = (weight.unsqueeze(2) for weight in weights.chunk(4))
        q = convolve(torch.add(b, c, out=mixed), plus, None, self.padding)
        p = convolve(torch.sub(a, c, out=mixed), first, self.bias, self.padding).add_(q)
        r = convolve(torch.sub(c, b, out=mixed), minus, None, self.padding)
        out = q.new_empty(num_pairs, 2, *q.shape[1:])
        torch.add(p, r, out=out[:, 0])
        s = convolve(torch.sub(b, d, out=mixed), last, -self.bias, self.padding)
        torch.sub(q.sub_(r), s, out=out[:, 1])
        return out.flatten(0, 1)

    def forward(self, x_THWC: Tensor, stream: Stream) -> Tensor:
        if self.kernel_frames == 1:
            return convolve(x_THWC, self.weight, self.bias, self.padding)
        whole, new = stream.window(self, x_THWC, len(x_THWC))
        new.copy_(x_THWC)
        return self.run(whole, stream)


class RmsNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x / |x| * sqrt(C) * gamma, the length in float32 whatever the dtype."""
        return self.into(x, torch.empty_like(x))

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        """The same, written to `out`."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(1e-12)
        inverse = length.reciprocal_().mul_(x.shape[-1] ** 0.5)
        if x.dtype == torch.float32:
            return torch.mul(x, inverse, out=out).mul_(self.gamma)
        return out.copy_(x.float().mul_(inverse)).mul_(self.gamma)


def norm_silu_conv(x: Tensor, norm: RmsNorm, conv: CausalConv, stream: Stream) -> Tensor:
    """conv(silu(norm(x))): the activation is written straight into the convolution's window."""
    whole, new = stream.window(conv, x, len(x))
    F.silu(norm.into(x, new), inplace=True)
    return conv.run(whole, stream)


class ResidualBlock(nn.Module):
    """Two norm-SiLU-convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, in_pairs: bool = False) -> None:
        super().__init__()
        self.norm1 = RmsNorm(in_channels)
        self.conv1 = CausalConv(in_channels, out_channels, (3, 3, 3), in_pairs)
        self.norm2 = RmsNorm(out_channels)
        self.conv2 = CausalConv(out_channels, out_channels, (3, 3, 3), in_pairs)
        self.conv_shortcut = CausalConv(in_channels, out_channels, (1, 1, 1)) if in_channels != out_channels else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        hidden = norm_silu_conv(x, self.norm1, self.conv1, stream)
        hidden = norm_silu_conv(hidden, self.norm2, self.conv2, stream)
        hidden += x if self.conv_shortcut is None else self.conv_shortcut(x, stream)
        return hidden


class AttentionBlock(nn.Module):
    """Self-attention of all pixels of a frame, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RmsNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        pixels_TPC = self.norm(x).flatten(1, 2)
        q, k, v = self.to_qkv(pixels_TPC).unsqueeze(1).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out: Tensor = x + self.proj(attended).view_as(x)
        return out


class MidBlock(nn.Module):
    """Residual, attention, residual, at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])
        self.attentions = nn.ModuleList([AttentionBlock(channels)])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x, stream)
        return x


class Upsampler(nn.Module):
    """Twice the rows and columns, and twice the frames where `temporal` (but for the very first frame)."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if temporal else None
        self._phases: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, self.time_conv, stream, first)
        weight, bias = self._phase_weights()
        phases = convolve(x, weight, bias, (0, 1, 1))
        frames, rows, columns, _ = x.shape
        out = x.new_empty(frames, rows, 2, columns, 2, self.channels)
        for row in (0, 1):
            for column in (0, 1):
                begin = (2 * row + column) * self.channels
                out[:, :, row, :, column] = phases[
                    :, row : row + rows, column : column + columns, begin : begin + self.channels
                ]
        return out.view(frames, 2 * rows, 2 * columns, self.channels)

    def _double_frames(self, x: Tensor, conv: CausalConv, stream: Stream, first: bool) -> Tensor:
        """Frames 2t and 2t+1 are the halves of the convolution's channels. The first frame stays one frame, and what
        follows sees zeros in its place."""
        if first:
            assert len(x) == 1, "the first latent frame goes through the decoder alone"
            stream.keep(conv, x.new_zeros(HISTORY, *x.shape[1:]))
            return x
        doubled: Tensor = conv(x, stream).unflatten(-1, (2, self.channels))
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
    """Residual blocks, then an upsampler beside a shortcut that repeats values (DupUp3D)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        upsample: bool,
        temporal: bool,
        in_pairs: bool,
    ) -> None:
        super().__init__()
        channels = [in_channels] + [out_channels] * num_blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b, in_pairs) for a, b in pairwise(channels))
        self.upsampler = Upsampler(out_channels, temporal) if upsample else None
        self.frame_factor = 2 if temporal else 1

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden, stream)
        if self.upsampler is None:
            return hidden
        out: Tensor = self.upsampler(hidden, stream, first)
        add_repeated_(out, x, self.frame_factor, first)
        return out


def add_repeated_(out: Tensor, x: Tensor, frame_factor: int, first: bool) -> None:
    """out += DupUp3D(x), in place: each value repeated over 2x2 pixels and `frame_factor` frames.

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
    """Half the rows and columns, and half the frames where `temporal` (but for the very first frame)."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.time_conv = CausalConv(channels, channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        padded = F.pad(x, (0, 0, 0, 1, 0, 1))
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
    """Residual blocks and a downsampler, beside a shortcut that averages (AvgDown3D)."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, downsample: bool, temporal: bool) -> None:
        super().__init__()
        channels = [in_channels] + [out_channels] * num_blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(channels))
        self.downsampler = Downsampler(out_channels, temporal) if downsample else None
        self.factors = (2 if temporal else 1, 2 if downsample else 1)
        self.out_channels = out_channels

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden, stream)
        if self.downsampler is not None:
            hidden = self.downsampler(hidden, stream)
        out: Tensor = hidden + self._averaged(x)
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


class Encoder(nn.Module):
    """Frames in, moments of latents out."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        dims = [spec.base_dim * multiple for multiple in (1, *spec.dim_mult)]
        last = len(spec.dim_mult) - 1
        self.conv_in = CausalConv(spec.in_channels, dims[0], (3, 3, 3))
        self.down_blocks = nn.ModuleList(
            DownBlock(a, b, spec.num_res_blocks, i < last, i < last and spec.temperal_downsample[i])
            for i, (a, b) in enumerate(pairwise(dims))
        )
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = RmsNorm(dims[-1])
        self.conv_out = CausalConv(dims[-1], 2 * spec.z_dim, (3, 3, 3))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        return norm_silu_conv(self.mid_block(x, stream), self.norm_out, self.conv_out, stream)


class Decoder(nn.Module):
    """Latent frames in, patched frames out."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        dims = [spec.decoder_dim * multiple for multiple in (spec.dim_mult[-1], *spec.dim_mult[::-1])]
        temporal = spec.temperal_downsample[::-1]
        last = len(spec.dim_mult) - 1
        self.conv_in = CausalConv(spec.z_dim, dims[0], (3, 3, 3))
        self.mid_block = MidBlock(dims[0])
        self.up_blocks = nn.ModuleList(
            UpBlock(a, b, spec.num_res_blocks + 1, i < last, i < last and temporal[i], in_pairs=any(temporal[:i]))
            for i, (a, b) in enumerate(pairwise(dims))
        )
        self.norm_out = RmsNorm(dims[-1])
        self.conv_out = CausalConv(dims[-1], spec.out_channels, (3, 3, 3), in_pairs=any(temporal))

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        x = self.mid_block(self.conv_in(x, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream, first)
        return norm_silu_conv(x, self.norm_out, self.conv_out, stream)


class WanVae(nn.Module):
    """Pictures to normalised latents and back."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.quant_conv = CausalConv(2 * spec.z_dim, 2 * spec.z_dim, (1, 1, 1))
        self.decoder = Decoder(spec)
        self.post_quant_conv = CausalConv(spec.z_dim, spec.z_dim, (1, 1, 1))

    @property
    def dtype(self) -> torch.dtype:
        return self.post_quant_conv.weight.dtype

    def checkpoint_slots(self) -> dict[str, Tensor]:
        """Where each tensor of the checkpoint goes: its name and shape there -> a view of a parameter here."""
        return dict(_slot_of(name, parameter.data) for name, parameter in self.named_parameters())

    def optimise_layout(self) -> None:
        """Lay the weights of convolutions out as they are used. Call once, after loading."""
        for module in self.modules():
            if isinstance(module, CausalConv):
                module.optimise_layout()

    def encode(self, frames_FHWC: Tensor) -> Tensor:
        """Frames (F, H, W, 3) in [-1, 1], F = 4k+1 -> the mode of the posterior, normalised: (z, T, h, w), float32."""
        stream = Stream()
        stride = self.spec.scale_factor_temporal
        moments = []
        patched = _patchify(frames_FHWC.to(self.dtype), self.spec.patch_size)
        for start in range(-stride + 1, len(patched), stride):
            moments.append(self.quant_conv(self.encoder(patched[max(start, 0) : start + stride], stream), stream))
        mode_THWZ = torch.cat(moments)[..., : self.spec.z_dim].float()
        mean, std = self._statistics(mode_THWZ.device)
        return ((mode_THWZ - mean) / std).permute(3, 0, 1, 2).contiguous()

    def start_decoding(self) -> Stream:
        """A new stream for `decode_next`."""
        return Stream()

    def decode_next(self, latents_ZTHW: Tensor, stream: Stream, first: bool) -> Tensor:
        """The next normalised latent frames -> frames (F, H, W, 3) in [-1, 1], in the VAE's dtype.

        The very first latent frame comes alone (`first`) and gives one frame; each later one gives four, and any
        number of them may come at a time.
        """
        mean, std = self._statistics(latents_ZTHW.device)
        latents_THWZ = (latents_ZTHW.permute(1, 2, 3, 0).float() * std + mean).to(self.dtype).contiguous()
        patched = self.decoder(self.post_quant_conv(latents_THWZ, stream), stream, first)
        return _unpatchify(patched, self.spec.patch_size).clamp_(-1.0, 1.0)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (self.spec.latents_mean, self.spec.latents_std)
        )
        return mean, std


def _patchify(frames_FHWC: Tensor, patch: int) -> Tensor:
    """Blocks of patch x patch pixels become channels: (F, H/p, W/p, 3 x p x p), the column within a block first."""
    frames, height, width, channels = frames_FHWC.shape
    parts = frames_FHWC.reshape(frames, height // patch, patch, width // patch, patch, channels)
    return parts.permute(0, 1, 3, 5, 4, 2).reshape(frames, height // patch, width // patch, -1)


def _unpatchify(patched: Tensor, patch: int) -> Tensor:
    """The inverse of `_patchify`."""
    frames, height, width, channels = patched.shape
    parts = patched.view(frames, height, width, channels // patch**2, patch, patch)
    return parts.permute(0, 1, 5, 2, 4, 3).reshape(frames, height * patch, width * patch, -1)


def _slot_of(name: str, parameter: Tensor) -> tuple[str, Tensor]:
    """The checkpoint's name for one of our parameters, with a view of its shape there."""
    if name.endswith("gamma"):
        axes = 2 if ".attentions." in name else 3
        return name, parameter.view(-1, *([1] * axes))
    if name.endswith(("to_qkv.weight", "proj.weight")):
        return name, parameter.view(*parameter.shape, 1, 1)
    for sampler in (".upsampler.", ".downsampler."):
        if sampler in name and ".time_conv." not in name:
            return name.replace(sampler, f"{sampler}resample.1."), parameter
    return name, parameter
