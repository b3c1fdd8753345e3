"""Seconds of Denoising: what a rank computes in a block, and what the link adds (replay)."""

from __future__ import annotations

import math

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.portions import SLICE_TOKENS, TURNS_FROM, choose_slices, merges_padding
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec, TransformerNumbers
from ringlight.families.traffic import attention_elements
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.replay import Block, replay


class Sending(msgspec.Struct, frozen=True):
    """How a rank's forwards send: slices, and whether two of them take turns."""

    num_slices: int
    take_turns: bool


def elementwise_bytes(spec: TransformerNumbers, itemsize: int, merges: bool) -> float:
    """Bytes that norms, casts, modulation and residual sums of a block read and write for one token.

    Hidden states and norms are float32, what goes into products is not. In terms of the C channels 123 bytes of float32
    (148 with merging a prompt's padding into the attention to it), 15 values of the products' dtype and two of the
    feed-forward's width: 528 kB in bfloat16, as counted from the operations of a forward on fake CUDA tensors.
    """
    in_float32 = (148.0 if merges else 123.0) * spec.inner_dim
    return in_float32 + itemsize * (15.0 * spec.inner_dim + 2.0 * spec.ffn_dim)


def block_seconds(
    spec: TransformerNumbers,
    layout: ParallelLayout,
    num_tokens: int,
    num_slices: int,
    hardware: Hardware,
    settings: RunSettings,
) -> Block:
    """A block on rank 0, which has most tokens and heads; without the bytes that it sends.

    offer     = operations of q, k and v / products
    attention = 4 G N h D / attention
    finish    = operations of all other products / products + elementwise bytes n / memory

    for n own tokens of N, G tokens of the Ulysses group, h own heads of width D.
    Weights are read once for each slice and each 4,096 tokens of it: their bytes / memory. Kernels that are started
    one after another bound it from below.
    """
    own = split_sizes(num_tokens, layout.sp)[0]
    group = sum(split_sizes(num_tokens, layout.sp)[: layout.ulysses])
    heads = split_sizes(spec.num_attention_heads, layout.ulysses)[0]
    layers, itemsize = spec.layers.block, settings.itemsize
    products, memory = hardware.products(settings), hardware.memory_rate
    passes = num_slices * math.ceil(own / num_slices / SLICE_TOKENS)
    weights = layers.parameters * itemsize / memory * passes
    offer = layers.to_qkv.flops(own) / products
    attention = 4.0 * group * num_tokens * heads * spec.attention_head_dim / hardware.attention(settings)
    finish = sum(matrix.flops(own) for matrix in layers.after_attention) / products
    finish += weights + own * elementwise_bytes(spec, itemsize, merges_padding(hardware.card.is_cpu)) / memory
    missing = max(0.0, hardware.card.launch_seconds - offer - attention - finish)
    offer, attention, finish = (hardware.corrected("Denoising", x) for x in (offer, attention, finish + missing))
    return Block(offer=offer, attention=attention, finish=finish, num_ring=layout.ring, num_ulysses=layout.ulysses)


def with_bytes(
    block: Block, spec: TransformerNumbers, layout: ParallelLayout, num_tokens: int, ahead: bool, itemsize: int
) -> Block:
    """The block with what rank 0 sends in it, by core/traffic's formulas."""
    sent = attention_elements(layout, 0, num_tokens, spec.num_attention_heads, ahead)
    unit = spec.attention_head_dim * itemsize
    own = split_sizes(num_tokens, layout.sp)[0]
    others_heads = spec.num_attention_heads - split_sizes(spec.num_attention_heads, layout.ulysses)[0]
    there = 3 * own * others_heads
    return msgspec.structs.replace(
        block,
        ring_bytes=float(sent["ring"] * unit),
        there_bytes=float(there * unit),
        back_bytes=float((sent["ulysses"] - there) * unit),
    )


def sending(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> Sending:
    """How the pipeline would send: by link seconds of a layer to its compute seconds (pipelines/denoising)."""
    if layout.sp == 1:
        return Sending(settings.num_slices or 1, False)
    network = spec.transformer
    num_tokens = spec.num_tokens(request.num_frames, request.height, request.width)
    block = block_seconds(network, layout, num_tokens, 1, hardware, settings)
    block = with_bytes(block, network, layout, num_tokens, True, settings.itemsize)
    sent = block.ring_bytes + block.there_bytes + block.back_bytes
    ratio = sent / hardware.link.bytes_per_second / block.seconds
    are_two = request.uses_guidance and layout.cfg == 1
    num_slices = settings.num_slices or choose_slices(ratio, num_tokens // layout.sp, are_two)
    return Sending(num_slices, are_two and (num_slices > 1 or ratio >= TURNS_FROM))


def denoising_seconds(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, hardware: Hardware, settings: RunSettings
) -> tuple[float, float, float]:
    """(compute, link in all, link exposed) seconds of all steps.

    A step is one forward, or two with guidance on one rank group; each is `num_layers` blocks, replayed with their
    messages. After it the head's output is gathered, and two branches exchange predictions, with nothing to hide under.
    """
    network, how = spec.transformer, sending(spec, request, layout, hardware, settings)
    num_tokens = spec.num_tokens(request.num_frames, request.height, request.width)
    block = block_seconds(network, layout, num_tokens, how.num_slices, hardware, settings)
    block = with_bytes(block, network, layout, num_tokens, how.num_slices > 1, settings.itemsize)
    forwards = 2 if request.uses_guidance and layout.cfg == 1 else 1
    link = hardware.link
    speed = (link.bytes_per_second, link.latency_seconds, link.busy_seconds_per_byte)
    step = replay(block, network.num_layers, how.num_slices, forwards, how.take_turns, speed)
    own = split_sizes(num_tokens, layout.sp)[0]
    out = own * network.out_channels * math.prod(network.patch_size) * settings.itemsize
    bare = forwards * _seconds(hardware, out * (layout.sp - 1), layout.sp - 1)
    if layout.cfg == 2:
        prediction = math.prod(spec.latent_shape(request.num_frames, request.height, request.width))
        bare += _seconds(hardware, prediction * settings.itemsize, 1)
    calls = spec.scheduler.num_calls(request.num_inference_steps)
    return calls * step.computed, calls * (step.link + bare), calls * (step.exposed + bare)


def _seconds(hardware: Hardware, num_bytes: float, num_messages: int) -> float:
    """Of a transfer that nothing hides."""
    return hardware.link.seconds(num_bytes, num_messages) + num_bytes * hardware.link.busy_seconds_per_byte
