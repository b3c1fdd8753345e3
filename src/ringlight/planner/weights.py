"""How many parameters each network has, from its numbers, and which part of the text encoder each rank holds."""

from __future__ import annotations

import math

from ringlight.core.portions import split_runs
from ringlight.core.spec import ModelSpec, TextEncoderSpec, TransformerSpec, VaeSpec
from ringlight.planner import decoder

RELATIVE_BUCKETS = 32  # of the text encoder's positions, a table in each layer


def block_parameters(spec: TransformerSpec) -> int:
    """One transformer block: self-attention, cross-attention, feed-forward, norms and modulation table."""
    dim = spec.inner_dim
    attention = 4 * dim * (dim + 1) + 2 * dim
    return 2 * attention + 2 * dim + 2 * dim * spec.ffn_dim + spec.ffn_dim + dim + 6 * dim


def transformer_parameters(spec: TransformerSpec) -> tuple[int, int]:
    """(all, those of them that are float32 in any run: time embedder, tables and the norm before cross-attention)."""
    dim, patch = spec.inner_dim, math.prod(spec.patch_size)
    time = (spec.freq_dim + 1) * dim + (dim + 1) * dim
    text = (spec.text_dim + 1) * dim + (dim + 1) * dim
    ends = (spec.in_channels * patch + 1) * dim + (dim + 1) * spec.out_channels * patch
    in_float32 = time + 2 * dim + spec.num_layers * 8 * dim
    return spec.num_layers * block_parameters(spec) + time + 6 * dim * (dim + 1) + text + ends + 2 * dim, in_float32


def vae_parameters(spec: VaeSpec) -> int:
    """Decoder and encoder."""
    return decoder.parameters(decoder.decoder(spec), spec.decoder_dim * spec.dim_mult[-1]) + decoder.parameters(
        decoder.encoder(spec), spec.base_dim * spec.dim_mult[-1]
    )


def upsampling_parameters(spec: VaeSpec) -> int:
    """Weights that the decoder makes for itself: 2x2 kernels and biases for the four pixels that one becomes."""
    samplers = [layer for layer in decoder.decoder(spec) if layer.executed_kernel]
    return sum(16 * layer.channels**2 + 4 * layer.channels for layer in samplers)


def text_parts(spec: TextEncoderSpec) -> list[int]:
    """Parameters of the token table and of each layer, the final norm with the last one."""
    inner = spec.num_heads * spec.d_kv
    layer = 4 * spec.d_model * inner + 3 * spec.d_model * spec.d_ff + 2 * spec.d_model
    layer += RELATIVE_BUCKETS * spec.num_heads
    parts = [spec.vocab_size * spec.d_model] + [layer] * spec.num_layers
    parts[-1] += spec.d_model
    return parts


def text_parameters(spec: TextEncoderSpec, num_ranks: int) -> list[int]:
    """Parameters of the text encoder that each rank holds."""
    sizes = text_parts(spec)
    return [sum(sizes[part] for part in run) for run in split_runs(sizes, num_ranks)]


def checkpoint_parameters(spec: ModelSpec) -> int:
    """All that is read when a model is loaded on one rank."""
    return transformer_parameters(spec.transformer)[0] + vae_parameters(spec.vae) + sum(text_parts(spec.text_encoder))
