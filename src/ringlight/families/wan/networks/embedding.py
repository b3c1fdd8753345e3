"""Embeddings of timesteps, of rows of text, and of tokens of pictures, which the transformer's blocks see.

B batch (always 1), L rows, C channels, R distinct timesteps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.families.layers.matrix import Matrix, TransformerLayers
from ringlight.kernels.linear import Linear


class ImageEmbedder(nn.Module):
    """Embeds tokens of pictures, after their positions where these have any."""

    def __init__(self, layers: tuple[Matrix, ...], position_values: int) -> None:
        super().__init__()
        first, last = layers
        self.norm1 = nn.LayerNorm(first.inputs)
        self.up, self.down = Linear.of(first), Linear.of(last)
        self.norm2 = nn.LayerNorm(last.outputs)
        width, num_positions = first.inputs, position_values // first.inputs
        self.pos_embed = nn.Parameter(torch.empty(num_positions, width)) if num_positions else None

    def forward(self, tokens_BLC: Tensor) -> Tensor:
        """(B, L, image_dim) -> (B, L, C); norms in float32 whatever the dtype is."""
        dtype = self.up.weight.dtype
        if self.pos_embed is not None:
            tokens_BLC = tokens_BLC.to(dtype) + self.pos_embed
        hidden = F.gelu(self.up(self.norm1(tokens_BLC.float()).to(dtype)))
        embedded: Tensor = self.norm2(self.down(hidden).float()).to(dtype)
        return embedded


class ConditionEmbedder(nn.Module):
    """Embeds distinct timesteps, text rows, and tokens of pictures."""

    def __init__(self, layers: TransformerLayers) -> None:
        super().__init__()
        self.freq_dim = layers.times[0].inputs
        self.time_embedder = nn.ModuleDict(_two_linear(layers.times))
        self.time_proj = Linear.of(layers.modulation)
        self.text_embedder = nn.ModuleDict(_two_linear(layers.texts))
        self.image_embedder = ImageEmbedder(layers.images, layers.image_positions) if layers.images else None

    def embed_time(self, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(R,) timesteps -> embedding (R, C) for the head and modulation rows (R, 6, C), computed as the blocks are."""
        half = self.freq_dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(10000) / half)
        angles = timesteps.float()[:, None] * exponents.exp()[None]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedding = self.time_embedder["linear_2"](F.silu(self.time_embedder["linear_1"](waves))).to(dtype)
        return embedding, self.time_proj(F.silu(embedding)).unflatten(-1, (6, -1))

    def embed_text(self, text: Tensor) -> Tensor:
        """(B, L, text_dim) -> (B, L, C)."""
        hidden = F.gelu(self.text_embedder["linear_1"](text), approximate="tanh")
        embedded: Tensor = self.text_embedder["linear_2"](hidden)
        return embedded


def _two_linear(layers: tuple[Matrix, Matrix]) -> dict[str, nn.Module]:
    return {f"linear_{place}": Linear.of(layer) for place, layer in enumerate(layers, 1)}
