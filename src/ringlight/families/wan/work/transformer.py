"""TransformerSpec: the numbers of Wan's diffusion transformer, and its layers as data."""

from __future__ import annotations

import math
from functools import cached_property

import msgspec

from ringlight.core.eight_bit import EightBit
from ringlight.core.layout import ParallelLayout
from ringlight.core.portions import merges_padding, offered_tokens
from ringlight.core.stored_network import StoredNetwork
from ringlight.families.layers.matrix import BlockLayers, Matrix, TransformerLayers
from ringlight.families.model import Positive
from ringlight.families.wan.work.forward import ForwardPeak


class TransformerSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Numbers of `transformer/config.json` of a WanTransformer3DModel.

    `held` are the matrices of blocks that lie in eight bits, by their names in BlockLayers.
    """

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
    pos_embed_seq_len: int | None = None
    held: dict[str, EightBit] = {}

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
            images=() if (width := self.image_dim) is None else (Matrix(width, width), Matrix(width, dim)),
            image_vectors=0 if self.image_dim is None else 2 * self.image_dim + 2 * dim,
            image_positions=(self.pos_embed_seq_len or 0) * (self.image_dim or 0),
        )

    def forward_flops(self, num_tokens: int) -> float:
        """Floating-point operations of one forward: matrix products and self-attention (text and time left out)."""
        products = self._block.product_flops(num_tokens)
        return self.num_layers * (products + 4.0 * num_tokens**2 * self.inner_dim)

    def elementwise_bytes(self, on_cpu: bool, itemsize: int) -> float:
        """Bytes that norms, casts, modulation and residual sums of a block read and write for one token.

        Hidden states and norms are float32, what goes into products is not. In terms of the C channels 123 bytes of
        float32 (148 with merging a prompt's padding into the attention to it), 15 values of the products' dtype and two
        of the feed-forward's width: 528 kB in bfloat16, as counted from the operations of a forward on fake CUDA
        tensors.
        """
        in_float32 = (148.0 if merges_padding(on_cpu) else 123.0) * self.inner_dim
        return in_float32 + itemsize * (15.0 * self.inner_dim + 2.0 * self.ffn_dim)

    def peak_bytes(
        self, num_tokens: int, layout: ParallelLayout, on_cpu: bool, itemsize: int, num_slices: int, forwards: int
    ) -> int:
        """Peak bytes of a rank's forward; with `forwards` 2, two alternate."""
        return ForwardPeak(
            dim=self.inner_dim,
            head_dim=self.attention_head_dim,
            ffn_dim=self.ffn_dim,
            patch=self.in_channels * math.prod(self.patch_size),
            layout=layout,
            num_tokens=num_tokens,
            offered=offered_tokens(on_cpu),
            num_slices=num_slices,
            item=itemsize,
        ).bytes(forwards)

    @property
    def _block(self) -> BlockLayers:
        dim = self.inner_dim
        in_float32 = 2 * dim + 6 * dim  # the norm before cross-attention, and the table of shifts, scales and gates
        return BlockLayers(
            to_qkv=Matrix(dim, 3 * dim, held=self.held.get("to_qkv")),
            to_out=Matrix(dim, dim, held=self.held.get("to_out")),
            text_to_q=Matrix(dim, dim, held=self.held.get("text_to_q")),
            text_to_kv=Matrix(dim, 2 * dim, held=self.held.get("text_to_kv")),
            text_to_out=Matrix(dim, dim, held=self.held.get("text_to_out")),
            up=Matrix(dim, self.ffn_dim, held=self.held.get("up")),
            down=Matrix(self.ffn_dim, dim, held=self.held.get("down")),
            vectors=(4 if self.image_dim is None else 5) * dim + in_float32,  # norms of q and k, twice, and of pictures
            image_to_kv=None if self.image_dim is None else Matrix(dim, 2 * dim),
            float32_vectors=in_float32,
        )


# The weights that each of them is made of, in every block: those of diffusers' names.
BLOCK_WEIGHTS = {
    "to_qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "to_out": ("attn1.to_out.0",),
    "text_to_q": ("attn2.to_q",),
    "text_to_kv": ("attn2.to_k", "attn2.to_v"),
    "text_to_out": ("attn2.to_out.0",),
    "up": ("ffn.net.0.proj",),
    "down": ("ffn.net.2",),
}


def held_in_blocks(stored: StoredNetwork, num_layers: int) -> dict[str, EightBit]:
    """Matrices that all blocks of these files have in eight bits of one kind.

    The others are widened when they are loaded.
    """
    found = {}
    for name, modules in BLOCK_WEIGHTS.items():
        weights = [f"blocks.{number}.{module}.weight" for number in range(num_layers) for module in modules]
        if (held := stored.held(weights)) is not None:
            found[name] = held
    return found
