"""TransformerSpec: the numbers of Wan's diffusion transformer, and its layers as data."""

from __future__ import annotations

import math
from functools import cached_property

import msgspec

from ringlight.families.layers.matrix import BlockLayers, Matrix, TransformerLayers
from ringlight.families.model import Positive


class TransformerSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """`transformer/config.json` of a WanTransformer3DModel."""

    patch_size: tuple[Positive, Positive, Positive]
    num_attention_heads: Positive
    attention_head_dim: Positive
    in_channels: Positive
    out_channels: Positive
    text_dim: Positive
    freq_dim: Positive
    ffn_dim: Positive
    num_layers: Positive
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_max_seq_len: Positive = 1024
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None

    @property
    def inner_dim(self) -> int:
        """Channels of the hidden states: heads x head width."""
        return self.num_attention_heads * self.attention_head_dim

    @cached_property
    def layers(self) -> TransformerLayers:
        """All layers of the network."""
        dim, patch = self.inner_dim, math.prod(self.patch_size)
        return TransformerLayers(
            patches=Matrix(self.in_channels * patch, dim),
            times=(Matrix(self.freq_dim, dim), Matrix(dim, dim)),
            modulation=Matrix(dim, 6 * dim),
            texts=(Matrix(self.text_dim, dim), Matrix(dim, dim)),
            block=self._block,
            num_blocks=self.num_layers,
            head=Matrix(dim, self.out_channels * patch),
            head_vectors=2 * dim,
        )

    def forward_flops(self, num_tokens: int) -> float:
        """Floating-point operations of one forward: matrix products and self-attention (text and time left out)."""
        products = self._block.product_flops(num_tokens)
        return self.num_layers * (products + 4.0 * num_tokens**2 * self.inner_dim)

    @property
    def _block(self) -> BlockLayers:
        dim = self.inner_dim
        in_float32 = 2 * dim + 6 * dim  # the norm before cross-attention, and the table of shifts, scales and gates
        return BlockLayers(
            to_qkv=Matrix(dim, 3 * dim),
            to_out=Matrix(dim, dim),
            text_to_q=Matrix(dim, dim),
            text_to_kv=Matrix(dim, 2 * dim),
            text_to_out=Matrix(dim, dim),
            up=Matrix(dim, self.ffn_dim),
            down=Matrix(self.ffn_dim, dim),
            vectors=4 * dim + in_float32,  # norms of q and k, twice
            float32_vectors=in_float32,
        )
