"""Bytes of memory by rank: weights, and the peaks of Denoising and Decoding, from what the code really holds at once.

What the caching allocator reserves beyond that is its slack.
"""

from __future__ import annotations

import math

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.portions import merges_padding, offered_tokens, split_runs
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.planner.decoder_peak import DecoderPeak, norm_copies
from ringlight.planner.denoising import sending
from ringlight.planner.forward_peak import ForwardPeak
from ringlight.planner.hardware import Hardware, RunSettings

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
    made = spec.vae.decoder.made_parameters * settings.vae_itemsize
    return [loaded + made for loaded in loaded_by_rank(spec, num_ranks, settings)]


def loaded_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """Transformer and VAE whole on every rank; the text encoder in runs."""
    transformer, in_float32 = spec.transformer.layers, spec.transformer.layers.float32_parameters
    whole = (transformer.parameters - in_float32) * settings.itemsize + in_float32 * 4
    whole += (spec.vae.decoder.parameters + spec.vae.encoder.parameters) * settings.vae_itemsize
    parts = spec.text_encoder.layers.parts
    runs = split_runs(parts, num_ranks)
    return [whole + sum(parts[part] for part in run) * settings.itemsize for run in runs]


def checkpoint_parameters(spec: ModelSpec) -> int:
    """All that is read when a model is loaded on one rank."""
    vae = spec.vae.decoder.parameters + spec.vae.encoder.parameters
    return spec.transformer.layers.parameters + vae + sum(spec.text_encoder.layers.parts)


def denoising_bytes(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> int:
    """The peak of Denoising over the weights: of a forward, or two in turns; text keys, latents and the scheduler's
    history lie beside."""
    network, how = spec.transformer, sending(spec, request, layout, hardware, settings)
    num_tokens = spec.num_tokens(request.num_frames, request.height, request.width)
    forward = ForwardPeak(
        network=network,
        layout=layout,
        num_tokens=num_tokens,
        own=split_sizes(num_tokens, layout.sp)[0],
        offered=offered_tokens(hardware.card.is_cpu),
        num_slices=how.num_slices,
        item=settings.itemsize,
    )
    prompts = 2 if request.uses_guidance and layout.cfg == 1 else 1
    rows = TEXT_TOKENS if merges_padding(hardware.card.is_cpu) else spec.max_text_tokens
    text = prompts * rows * 2 * network.inner_dim * network.num_layers * settings.itemsize
    latents = 4 * LATENTS_HELD * math.prod(spec.latent_shape(request.num_frames, request.height, request.width))
    return forward.bytes(2 if how.take_turns else 1) + text + latents


def decode_portion(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> int:
    """Latent frames decoded at a time: as the workers choose it."""
    _, _, rows, columns = spec.latent_shape(request.num_frames, request.height, request.width)
    band, spare = split_sizes(rows, layout.num_ranks)[0], spare_bytes(spec, layout, hardware, settings)
    return spec.vae.decoder.portion(band, columns, settings.vae_itemsize, spare, settings.decode_chunk)


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
    layers = spec.vae.decoder
    _, num_latents, rows, columns = spec.latent_shape(request.num_frames, request.height, request.width)
    own = split_sizes(rows, layout.num_ranks)[0]
    is_split = layout.num_ranks > 1 and rows > 1
    history = layers.history_elements(own, columns, is_split) if num_latents > 1 else 0
    is_float32 = settings.vae_dtype == "float32"
    peak = DecoderPeak(
        layers,
        own,
        columns,
        is_split,
        winograd=hardware.card.is_cpu and is_float32,
        norm_copies=norm_copies(hardware.card.is_cpu, settings.vae_itemsize),
    )
    latents = 4 * LATENTS_HELD // 2 * math.prod(spec.latent_shape(request.num_frames, request.height, request.width))
    size = min(portion, max(1, num_latents - 1))
    return (history + peak.of(size, num_latents > 1)) * settings.vae_itemsize + latents
