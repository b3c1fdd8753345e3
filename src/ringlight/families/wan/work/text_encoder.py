"""TextEncoderSpec: the numbers of the UMT5 encoder, and its layers as data."""

from __future__ import annotations

from functools import cached_property

import msgspec

from ringlight.core.eight_bit import EightBit
from ringlight.core.stored_network import StoredNetwork
from ringlight.families.layers.matrix import Matrix, TextLayers
from ringlight.families.model import Positive

RELATIVE_BUCKETS = 32  # of positions, a table of biases in each layer


class TextEncoderSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Numbers of `text_encoder/config.json` that planning needs.

    `held` are the matrices of layers that lie in eight bits, by the last part of their names.
    """

    d_model: Positive
    d_ff: Positive
    num_heads: Positive
    d_kv: Positive
    num_layers: Positive
    vocab_size: Positive
    held: dict[str, EightBit] = {}

    @cached_property
    def layers(self) -> TextLayers:
        """All layers of the encoder."""
        inner = self.num_heads * self.d_kv
        return TextLayers(
            table=self.vocab_size * self.d_model,
            to_qkv=(
                self._matrix("q", self.d_model, inner),
                self._matrix("k", self.d_model, inner),
                self._matrix("v", self.d_model, inner),
            ),
            to_out=self._matrix("o", inner, self.d_model),
            gated=(self._matrix("wi_0", self.d_model, self.d_ff), self._matrix("wi_1", self.d_model, self.d_ff)),
            down=self._matrix("wo", self.d_ff, self.d_model),
            layer_vectors=2 * self.d_model + RELATIVE_BUCKETS * self.num_heads,
            num_layers=self.num_layers,
            final_vectors=self.d_model,
        )

    def _matrix(self, name: str, inputs: int, outputs: int) -> Matrix:
        return Matrix(inputs, outputs, has_bias=False, held=self.held.get(name))

    def peak_elements(self, num_tokens: int, num_prompts: int) -> int:
        """Peak elements of a layer for one prompt, beside the hidden states of all prompts.

        A layer holds its norm's input and output, then q, k and v with scores of all heads, their biases and the sum,
        or the gated feed-forward. Buckets of positions are 64-bit.
        """
        hidden, pairs = num_tokens * self.d_model, num_tokens**2
        attention = 3 * num_tokens * self.num_heads * self.d_kv + 3 * self.num_heads * pairs
        return (num_prompts + 2) * hidden + 4 * pairs + max(attention, 3 * num_tokens * self.d_ff)


UMT5_XXL = TextEncoderSpec(d_model=4096, d_ff=10240, num_heads=64, d_kv=64, num_layers=24, vocab_size=256384)

LAYER_WEIGHTS = {name: f"0.SelfAttention.{name}" for name in "qkvo"} | {
    name: f"1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")
}


def held_in_layers(stored: StoredNetwork, num_layers: int) -> dict[str, EightBit]:
    """Matrices that all layers of these files have in eight bits of one kind.

    The others are widened when they are loaded.
    """
    found = {}
    for name, module in LAYER_WEIGHTS.items():
        weights = [f"encoder.block.{number}.layer.{module}.weight" for number in range(num_layers)]
        if (held := stored.held(weights)) is not None:
            found[name] = held
    return found
