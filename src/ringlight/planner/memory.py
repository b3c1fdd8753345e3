"""Bytes of memory by rank: weights, and the peaks of Denoising and Decoding, from what the code really holds at once.

S tokens of a rank, C channels, e bytes of the products' dtype, u Ulysses and r ring ranks. Hidden states and norms are
float32. What the caching allocator reserves beyond that is its slack.
"""

from __future__ import annotations

import math

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.portions import SLICE_TOKENS, decoded_latents, merges_padding, offered_tokens
from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec, TransformerSpec
from ringlight.planner import decoder
from ringlight.planner.decoder_peak import DecoderPeak
from ringlight.planner.denoising import sending
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.weights import (
    text_parameters,
    transformer_parameters,
    upsampling_parameters,
    vae_parameters,
)

SLACK = 0.15  # of activations, reserved beyond what is allocated: assumed
LATENTS_HELD = 10  # noise, latents, predictions, the scheduler's history
TEXT_TOKENS = 100  # of a prompt, where only its own are held


class RankMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank. `base_bytes` are a CPU process beside its weights (0 on CUDA, where only tensors count)."""

    rank: int
    weights_bytes: int
    denoising_bytes: int
    decoding_bytes: int
    slack_bytes: int
    base_bytes: int = 0

    @property
    def idle_bytes(self) -> int:
        """Loaded, nothing running."""
        return self.base_bytes + self.weights_bytes

    @property
    def peak_allocated_bytes(self) -> int:
        return self.idle_bytes + max(self.denoising_bytes, self.decoding_bytes)

    @property
    def peak_bytes(self) -> int:
        """Peak Allocated and the allocator's slack: what is reserved."""
        return self.peak_allocated_bytes + self.slack_bytes


def memory_by_rank(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> list[RankMemory]:
    """Memory of every rank of a layout that a request runs on."""
    portion = decode_portion(spec, request, layout, hardware, settings)
    growth = hardware.correction.growth
    slack = 0.0 if growth else SLACK
    denoising = growth.get("Denoising", 1.0) * denoising_bytes(spec, request, layout, hardware, settings)
    decoding = growth.get("Decoding", 1.0) * decoding_bytes(spec, request, layout, portion, hardware, settings)
    return [
        RankMemory(
            rank=rank,
            weights_bytes=weights,
            denoising_bytes=int(denoising),
            decoding_bytes=int(decoding),
            slack_bytes=int(slack * max(denoising, decoding)),
            base_bytes=hardware.correction.base_bytes,
        )
        for rank, weights in enumerate(weights_by_rank(spec, layout.num_ranks, settings))
    ]


def weights_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """What is loaded, with the kernels that the decoder makes."""
    made = upsampling_parameters(spec.vae) * settings.vae_itemsize
    return [loaded + made for loaded in loaded_by_rank(spec, num_ranks, settings)]


def loaded_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """Transformer and VAE whole on every rank; the text encoder in runs."""
    total, in_float32 = transformer_parameters(spec.transformer)
    whole = (total - in_float32) * settings.itemsize + in_float32 * 4 + vae_parameters(spec.vae) * settings.vae_itemsize
    return [whole + held * settings.itemsize for held in text_parameters(spec.text_encoder, num_ranks)]


def denoising_bytes(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> int:
    """The peak of Denoising over the weights: what two forwards in turns both hold, and the largest moment of one.

    Held: hidden states 4SC and the buffers of attention. Moments: making q, k and v (the norm's output, the fused
    product, one of its parts in float32 twice), attending (output, and where results are merged two in float32), the
    feed-forward of 4,096 tokens. Text keys, latents and the scheduler's history lie beside.
    """
    network, how = spec.transformer, sending(spec, request, layout, hardware, settings)
    num_tokens = spec.num_tokens(request.num_frames, request.height, request.width)
    own, dim, item = split_sizes(num_tokens, layout.sp)[0], network.inner_dim, settings.itemsize
    one = own * dim
    buffers = _buffer_bytes(layout, how.num_slices, one, item)
    run = own if layout.sp == 1 else min(own, offered_tokens(hardware.card.is_cpu))
    if how.num_slices > 1:
        run = math.ceil(2 * own / (2 * how.num_slices - 2))
    making = run * dim * (6 * item if item == 4 else 5 * item + 8)
    attending = 0 if layout.sp == 1 else buffers
    attending += one * (
        item + (8 if layout.ring > 1 or how.num_slices > 1 else 0) + (2 * item if layout.ulysses > 1 else 0)
    )
    if layout.sp == 1:
        attending = one * 6 * item  # q, k, v as made (v still within the fused product) and the output
    else:
        making += buffers
    finishing = min(own, SLICE_TOKENS) * _finish_bytes(network, item) + (buffers if layout.sp > 1 else one * item)
    forwards = 2 if how.take_turns else 1
    prompts = 2 if request.uses_guidance and layout.cfg == 1 else 1
    rows = TEXT_TOKENS if merges_padding(hardware.card.is_cpu) else spec.max_text_tokens
    text = prompts * rows * 2 * dim * network.num_layers * item
    latents = 4 * LATENTS_HELD * math.prod(spec.latent_shape(request.num_frames, request.height, request.width))
    held = forwards * 4 * one + (forwards - 1) * buffers + 4 * num_tokens * network.attention_head_dim
    return held + max(making, attending, finishing) + text + latents


def _buffer_bytes(layout: ParallelLayout, num_slices: int, one: int, item: int) -> int:
    """What attention over ranks keeps for all blocks; `one` is S x C."""
    if layout.sp == 1:
        return 0
    if num_slices > 1:  # keys and values of all tokens for own heads, queries of the group, and what is under way
        copies = 3 * (layout.ulysses - 1) / layout.ulysses
        return int(item * one * (2 * layout.ring + 1 + copies))
    ring = 2 * min(2, layout.ring - 1)
    if layout.ulysses == 1:
        return item * one * (3 + ring)
    return item * one * (6 + ring + (2 if layout.ring > 1 else 0))


def _finish_bytes(network: TransformerSpec, item: int) -> int:
    """What follows self-attention, for each of its tokens: cross-attention in float32, or the feed-forward."""
    return max(network.inner_dim * (2 * item + 16), network.ffn_dim * item + 2 * network.inner_dim * item)


def decode_portion(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> int:
    """Latent frames decoded at a time: what is set, else as the workers choose it."""
    if settings.decode_chunk:
        return settings.decode_chunk
    _, _, rows, columns = spec.latent_shape(request.num_frames, request.height, request.width)
    pixels = split_sizes(rows, layout.num_ranks)[0] * columns
    return decoded_latents(spec.vae, pixels, settings.vae_itemsize, spare_bytes(spec, layout, hardware, settings))


def spare_bytes(spec: ModelSpec, layout: ParallelLayout, hardware: Hardware, settings: RunSettings) -> int:
    """What a GPU has beside the weights that are loaded, on the rank with most of them; nothing on a CPU."""
    if hardware.card.is_cpu:
        return 0
    return hardware.card.memory_bytes - max(loaded_by_rank(spec, layout.num_ranks, settings))


def usable_bytes(hardware: Hardware) -> int:
    """What tensors of a rank may take of its card."""
    return hardware.card.memory_bytes - hardware.card.context_bytes


def decoding_bytes(
    spec: ModelSpec,
    request: VideoRequest,
    layout: ParallelLayout,
    portion: int,
    hardware: Hardware,
    settings: RunSettings,
) -> int:
    """The peak of Decoding over the weights: history, the workspace of convolutions, and activations at their most."""
    vae = spec.vae
    _, num_latents, rows, columns = spec.latent_shape(request.num_frames, request.height, request.width)
    own = split_sizes(rows, layout.num_ranks)[0]
    is_split = layout.num_ranks > 1 and rows > 1
    history = decoder.history_elements(vae, own, columns, is_split) if num_latents > 1 else 0
    peak = DecoderPeak(vae, own, columns, is_split, winograd=hardware.card.is_cpu and settings.vae_dtype == "float32")
    latents = 4 * LATENTS_HELD // 2 * math.prod(spec.latent_shape(request.num_frames, request.height, request.width))
    size = min(portion, max(1, num_latents - 1))
    return (history + peak.of(size, num_latents > 1)) * settings.vae_itemsize + latents
