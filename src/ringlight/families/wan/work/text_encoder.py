"""TextEncoderSpec: the numbers of the UMT5 encoder, and its layers as data."""

from __future__ import annotations

from functools import cached_property

import msgspec

from ringlight.families.layers.matrix import Matrix, TextLayers
from ringlight.families.model import Positive

RELATIVE_BUCKETS = 32  # of positions, a table of biases in each layer


class TextEncoderSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The numbers of `text_encoder/config.json` that planning needs."""

    d_model: Positive
    d_ff: Positive
    num_heads: Positive
    d_kv: Positive
    num_layers: Positive
    vocab_size: Positive

    @cached_property
    def layers(self) -> TextLayers:
        """All layers of the encoder."""
        inner = self.num_heads * self.d_kv
        return TextLayers(
            table=self.vocab_size * self.d_model,
            to_qkv=(3 * (Matrix(self.d_model, inner, has_bias=False),)),
            to_out=Matrix(inner, self.d_model, has_bias=False),
            gated=(2 * (Matrix(self.d_model, self.d_ff, has_bias=False),)),
            down=Matrix(self.d_ff, self.d_model, has_bias=False),
            layer_vectors=2 * self.d_model + RELATIVE_BUCKETS * self.num_heads,
            num_layers=self.num_layers,
            final_vectors=self.d_model,
        )

    def peak_elements(self, num_tokens: int, num_prompts: int) -> int:
        """Hidden states of all prompts, and in a layer of one what its norm takes and gives, then q, k and v with
        scores of all heads, their biases and the sum, or the gated feed-forward. Buckets of positions are 64-bit."""
        hidden, pairs = num_tokens * self.d_model, num_tokens**2
        attention = 3 * num_tokens * self.num_heads * self.d_kv + 3 * self.num_heads * pairs
        return (num_prompts + 2) * hidden + 4 * pairs + max(attention, 3 * num_tokens * self.d_ff)


UMT5_XXL = TextEncoderSpec(d_model=4096, d_ff=10240, num_heads=64, d_kv=64, num_layers=24, vocab_size=256384)
