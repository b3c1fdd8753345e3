"""ImageEncoderSpec: the numbers of the CLIP image encoder of Wan2.1's I2V models."""

from __future__ import annotations

from typing import Literal

import msgspec

from ringlight.families.layers.matrix import Matrix
from ringlight.families.model import Positive


class ImageEncoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of `image_encoder/config.json` of a CLIPVisionModel. What files leave out has transformers' defaults.

    The tokens that are asked for come before its last layer, which with the norm after it is not even loaded.
    """

    hidden_size: Positive = 768
    intermediate_size: Positive = 3072
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive = 12
    patch_size: Positive = 32
    image_size: Positive = 224
    num_channels: Positive = 3
    hidden_act: Literal["gelu", "quick_gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def num_layers(self) -> int:
        """Number of layers that run."""
        return self.num_hidden_layers - 1

    @property
    def num_tokens(self) -> int:
        """One for each patch, and one for all of the picture."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def patches(self) -> Matrix:
        """Map from the pixels of a patch."""
        return Matrix(self.num_channels * self.patch_size**2, self.hidden_size, has_bias=False)

    @property
    def layer(self) -> tuple[Matrix, ...]:
        """q, k and v, their output, and the feed-forward of a layer."""
        dim = self.hidden_size
        return (*(4 * (Matrix(dim, dim),)), Matrix(dim, self.intermediate_size), Matrix(self.intermediate_size, dim))

    @property
    def parameters(self) -> int:
        """All that is loaded."""
        dim = self.hidden_size
        layer = sum(matrix.parameters for matrix in self.layer) + 4 * dim
        return self.patches.parameters + (1 + self.num_tokens + 2) * dim + self.num_layers * layer

    @property
    def flops(self) -> float:
        """Operations for a picture."""
        attention = 4.0 * self.num_tokens**2 * self.hidden_size
        layer = sum(matrix.flops(self.num_tokens) for matrix in self.layer) + attention
        return self.patches.flops(self.num_tokens) + self.num_layers * layer

    @property
    def peak_elements(self) -> int:
        """Elements that it holds at its most beside weights: hidden states, their norm, and the feed-forward twice."""
        return self.num_tokens * (3 * self.hidden_size + 2 * self.intermediate_size)


CLIP_VIT_H = ImageEncoderSpec(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    hidden_act="gelu",
)
