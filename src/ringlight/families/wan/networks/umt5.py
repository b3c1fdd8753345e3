"""The UMT5 encoder, or a run of its layers (UMT5EncoderModel of transformers is the reference for its numbers).

B batch, L tokens of a prompt, C channels, H heads, D head width. Modules have the names of the checkpoint. Every layer
has a relative bias of its own, and scores are not scaled (T5, arXiv 1910.10683; UMT5, arXiv 2304.09151).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.families.model import Positive
from ringlight.families.wan.work.text_encoder import RELATIVE_BUCKETS, TextEncoderSpec
from ringlight.kernels.widening import WidenedLinear
from ringlight.residency.part import WeightPart
from ringlight.residency.weights import Weights

GATED_GELU = "gated-gelu"


class Umt5Config(TextEncoderSpec, frozen=True, kw_only=True, dict=True):
    """All numbers of `text_encoder/config.json` that the network needs; defaults as in transformers' UMT5Config."""

    relative_attention_num_buckets: Positive = RELATIVE_BUCKETS
    relative_attention_max_distance: Positive = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = GATED_GELU


class Umt5Encoder(nn.Module):
    """Token table (part 0) and layers (parts 1 to num_layers, the final norm with the last), those of a run only."""

    def __init__(self, config: Umt5Config, run: range) -> None:
        super().__init__()
        self.config = config
        self.shared = _table(config.vocab_size, config.d_model) if 0 in run else None
        self.encoder = Stack(config, run)

    def embed(self, ids_BL: Tensor) -> Tensor:
        """(B, L, C): rows of the token table, looked up where that lies, on the device of the ids."""
        assert self.shared is not None, "the run begins with the token table"
        table = self.shared.weight
        rows = table.view(torch.uint8) if table.itemsize == 1 else table  # of eight bits nothing is looked up
        found = F.embedding(ids_BL.to(table.device), rows).view(table.dtype)
        return found.to(ids_BL.device)


class Stack(nn.Module):
    """The layers of a run, by their numbers, and the norm after the last of all."""

    def __init__(self, config: Umt5Config, run: range) -> None:
        super().__init__()
        self.config = config
        self.block = nn.ModuleDict({str(part - 1): Umt5Block(config) for part in run if part})
        is_last = config.num_layers in run
        self.final_layer_norm = Umt5RmsNorm(config.d_model, config.layer_norm_epsilon) if is_last else None

    def forward(self, hidden: list[Tensor], weights: Weights) -> list[Tensor]:
        """Hidden states (B, L, C) of each prompt after the run; all of them go through a layer while it is there."""
        buckets = {each.shape[1]: relative_buckets(each.shape[1], self.config, each.device) for each in hidden}
        last = len(self.block) - 1
        for place, block in enumerate(self.block.values()):
            weights.take(place)
            hidden = [block(each, buckets[each.shape[1]]) for each in hidden]
            if self.final_layer_norm is not None and place == last:
                hidden = [self.final_layer_norm(each) for each in hidden]
            weights.done(place)
        return hidden

    def parts(self, prefix: str) -> list[WeightPart]:
        """Each layer, the final norm with the last one, once they have their dtypes."""
        modules: list[list[nn.Module]] = [[block] for block in self.block.values()]
        if self.final_layer_norm is not None:
            modules[-1].append(self.final_layer_norm)
        return [WeightPart(f"{prefix}layer {name}", each) for name, each in zip(self.block, modules, strict=True)]


class Umt5Block(nn.Module):
    """One layer: self-attention, then the gated feed-forward, each behind a norm and beside a shortcut."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config), FeedForwardLayer(config)])

    def forward(self, hidden_BLC: Tensor, buckets_LL: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        hidden_BLC = attention(hidden_BLC, buckets_LL)
        out: Tensor = feed_forward(hidden_BLC)
        return out


class AttentionLayer(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.SelfAttention = BiasedAttention(config)
        self.layer_norm = Umt5RmsNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, hidden_BLC: Tensor, buckets_LL: Tensor) -> Tensor:
        out: Tensor = hidden_BLC + self.SelfAttention(self.layer_norm(hidden_BLC), buckets_LL)
        return out


class BiasedAttention(nn.Module):
    """Self-attention whose scores carry a learnt bias for each head and distance."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.heads = config.num_heads
        layers = config.layers
        self.q, self.k, self.v = map(WidenedLinear.of, layers.to_qkv)
        self.o = WidenedLinear.of(layers.to_out)
        self.relative_attention_bias = _table(config.relative_attention_num_buckets, self.heads)

    def forward(self, x_BLC: Tensor, buckets_LL: Tensor) -> Tensor:
        q, k, v = (to(x_BLC).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.q, self.k, self.v))
        bias_HLL = self.relative_attention_bias(buckets_LL).permute(2, 0, 1)
        weights_BHLL = torch.softmax(q @ k.transpose(2, 3) + bias_HLL, dim=-1)
        out: Tensor = self.o((weights_BHLL @ v).transpose(1, 2).flatten(2))
        return out


class FeedForwardLayer(nn.Module):
    """x + feed_forward(norm(x))."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedGelu(config)
        self.layer_norm = Umt5RmsNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, hidden_BLC: Tensor) -> Tensor:
        out: Tensor = hidden_BLC + self.DenseReluDense(self.layer_norm(hidden_BLC))
        return out


class GatedGelu(nn.Module):
    """wo(gelu(wi_0(x)) * wi_1(x)), with the tanh approximation of GELU."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        layers = config.layers
        self.wi_0, self.wi_1 = map(WidenedLinear.of, layers.gated)
        self.wo = WidenedLinear.of(layers.down)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return out


class Umt5RmsNorm(nn.Module):
    """Root mean square norm over the last axis; the mean square is taken in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean_square + self.eps)).to(self.weight.dtype)


def relative_buckets(length: int, config: Umt5Config, device: torch.device) -> Tensor:
    """(L, L) numbers of the bias for each query and key: half of them for keys that come later.

    Of either half, the first half is one for each distance, and the rest grows with its logarithm up to the longest.
    """
    num_buckets = config.relative_attention_num_buckets // 2
    num_exact = num_buckets // 2
    positions = torch.arange(length, device=device)
    distance_LL = positions[None, :] - positions[:, None]
    later_LL = (distance_LL > 0).long() * num_buckets
    far_LL = distance_LL.abs()
    logarithm = torch.log(far_LL.float() / num_exact) / math.log(config.relative_attention_max_distance / num_exact)
    coarse_LL = num_exact + (logarithm * (num_buckets - num_exact)).long()
    return later_LL + torch.where(far_LL < num_exact, far_LL, coarse_LL.clamp(max=num_buckets - 1))


def _table(num_rows: int, dim: int) -> nn.Embedding:
    """Make a table of values that are still to be loaded.

    torch's own first ones would import its compiler, on the meta device too.
    """
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(num_rows, dim), freeze=False)
    return table
