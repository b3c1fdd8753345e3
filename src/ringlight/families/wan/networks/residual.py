"""The VAE's blocks at one resolution: residual convolutions, and attention within a frame. Activations are THWC."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.families.layers.convolution import MidLayers, ResidualLayers
from ringlight.families.wan.networks.causal import CausalConv, RmsNorm, Stream, norm_silu_conv
from ringlight.parallel.collective import collective
from ringlight.parallel.halo import Bands, Gathering


class ResidualBlock(nn.Module):
    """Two norm-SiLU-convolutions beside a shortcut."""

    def __init__(self, layers: ResidualLayers) -> None:
        super().__init__()
        self.norm1 = RmsNorm(layers.conv1.inputs)
        self.conv1 = CausalConv(layers.conv1)
        self.norm2 = RmsNorm(layers.conv2.inputs)
        self.conv2 = CausalConv(layers.conv2)
        self.conv_shortcut = None if layers.shortcut is None else CausalConv(layers.shortcut)

    @collective
    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        hidden = norm_silu_conv(x, self.norm1, self.conv1, stream)
        hidden = norm_silu_conv(hidden, self.norm2, self.conv2, stream)
        hidden += x if self.conv_shortcut is None else self.conv_shortcut(x, stream)
        return hidden


class AttentionBlock(nn.Module):
    """Self-attention of all pixels of a frame, one head. A band has its own queries, and keys and values of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RmsNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    @collective
    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        q, k, v = (pixels_TPC.unsqueeze(1) for pixels_TPC in self._project(self.norm(x), stream.bands))
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out: Tensor = x + self.proj(attended).view_as(x)
        return out

    @collective
    def _project(self, x: Tensor, bands: Bands) -> tuple[Tensor, Tensor, Tensor]:
        """Project to q of these rows, k and v of the whole frame, each (T, pixels, C). k and v travel meanwhile."""
        channels = x.shape[-1]
        if not bands.are_split:
            q, k, v = self.to_qkv(x.flatten(1, 2)).chunk(3, dim=-1)
            return q, k, v
        weight, bias = self.to_qkv.weight, self.to_qkv.bias
        whole = Gathering(F.linear(x, weight[channels:], bias[channels:]), bands, 1, bands.holders, "gather")
        q = F.linear(x, weight[:channels], bias[:channels])
        kv = whole.wait()
        assert kv is not None, "a rank without rows does not attend"
        k, v = kv.flatten(1, 2).chunk(2, dim=-1)
        return q.flatten(1, 2), k, v


class MidBlock(nn.Module):
    """Residual, attention, residual, at the lowest resolution."""

    def __init__(self, layers: MidLayers) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(layers.residual), ResidualBlock(layers.residual)])
        self.attentions = nn.ModuleList([AttentionBlock(layers.channels)])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x, stream)
        return x
