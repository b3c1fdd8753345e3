"""The CLIP image encoder of Wan2.1's I2V models (CLIPVisionModel of transformers is the reference for its numbers).

B pictures, L tokens (the picture's own, then its patches), C channels. What comes before the last layer is what is
asked for, so that layer and the norm after it have no weights here.
"""

from __future__ import annotations

from collections.abc import Container

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.families.wan.work.image_encoder import ImageEncoderSpec
from ringlight.residency.part import WeightPart

# Of each colour, as CLIP was trained.
MEANS, DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageEncoderLayer(nn.Module):
    """Attention and feed-forward, each after a norm; named as in the checkpoint."""

    def __init__(self, spec: ImageEncoderSpec) -> None:
        super().__init__()
        dim = spec.hidden_size
        self._heads, self._is_quick = spec.num_attention_heads, spec.hidden_act == "quick_gelu"
        self.layer_norm1 = nn.LayerNorm(dim, spec.layer_norm_eps)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(dim, dim) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.layer_norm2 = nn.LayerNorm(dim, spec.layer_norm_eps)
        widths = {"fc1": (dim, spec.intermediate_size), "fc2": (spec.intermediate_size, dim)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*width) for name, width in widths.items()})

    def forward(self, x_BLC: Tensor) -> Tensor:
        normed = self.layer_norm1(x_BLC)
        q, k, v = (
            self.self_attn[name](normed).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BLC = x_BLC + self.self_attn["out_proj"](attended)
        hidden = self.mlp["fc1"](self.layer_norm2(x_BLC))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self._is_quick else F.gelu(hidden)
        out: Tensor = x_BLC + self.mlp["fc2"](hidden)
        return out


class ImageEncoder(nn.Module):
    """Encoder of pictures to tokens."""

    def __init__(self, spec: ImageEncoderSpec, with_last: bool = False) -> None:
        """Build the network. `with_last`: with weights of what does not run, as a checkpoint has them."""
        super().__init__()
        self.spec, dim = spec, spec.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(dim))
        self.patch_embedding = nn.Conv2d(spec.num_channels, dim, spec.patch_size, spec.patch_size, bias=False)
        self.position_embedding = nn.Parameter(torch.empty(spec.num_tokens, dim))
        self.pre_layrnorm = nn.LayerNorm(dim, spec.layer_norm_eps)
        self.layers = nn.ModuleList(ImageEncoderLayer(spec) for _ in range(spec.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(dim, spec.layer_norm_eps)
        self._left_out: dict[str, Tensor] = {}
        if not with_last:
            unused = {f"layers.{spec.num_layers}.{name}": each for name, each in self.layers[-1].named_parameters()}
            unused |= {f"post_layernorm.{name}": each for name, each in self.post_layernorm.named_parameters()}
            self._left_out = {_stored(name): torch.empty(each.shape, device="meta") for name, each in unused.items()}
            del self.layers[-1], self.post_layernorm

    def checkpoint_slots(self, only: Container[Tensor] | None = None) -> dict[str, Tensor]:
        """Destination of each tensor of the checkpoint, among the parameters in `only` (None: all).

        Tensors that are not loaded map to placeholders without memory.
        """
        own = {
            _stored(name): parameter.data
            for name, parameter in self.named_parameters()
            if only is None or parameter in only
        }
        return own if only is not None else own | self._left_out

    def part(self) -> WeightPart:
        """Part of all weights, which come and go together."""
        return WeightPart("image encoder", [self])

    @property
    def image_size(self) -> int:
        """Rows, and columns, of the pixels that it sees."""
        return self.spec.image_size

    def tokens(self, pixels_BHWC: Tensor) -> Tensor:
        """Tokens (B, L, C) of pictures (B, H, W, 3) from 0 to 1."""
        means, deviations = (pixels_BHWC.new_tensor(values) for values in (MEANS, DEVIATIONS))
        made: Tensor = self(((pixels_BHWC - means) / deviations).permute(0, 3, 1, 2))
        return made

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Pictures of the encoder's size, normed as CLIP has them -> tokens (B, L, C) in the dtype of the weights."""
        dtype = self.patch_embedding.weight.dtype
        patches = self.patch_embedding(pixels_BCHW.to(dtype)).flatten(2).transpose(1, 2)
        whole = self.class_embedding.to(dtype).expand(len(patches), 1, -1)
        x = self.pre_layrnorm(torch.cat([whole, patches], dim=1) + self.position_embedding)
        for layer in self.layers[: self.spec.num_layers]:
            x = layer(x)
        tokens: Tensor = x
        return tokens


def _stored(name: str) -> str:
    """The checkpoint's name for one of our parameters."""
    if name.startswith(("class_embedding", "patch_embedding")):
        return f"vision_model.embeddings.{name}"
    if name == "position_embedding":
        return "vision_model.embeddings.position_embedding.weight"
    return f"vision_model.{'encoder.' if name.startswith('layers.') else ''}{name}"
