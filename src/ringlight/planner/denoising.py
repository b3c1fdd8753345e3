"""Seconds of Denoising: what a rank computes in a block, and what the link adds (replay)."""

from __future__ import annotations

import math

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan
from ringlight.core.portions import SLICE_TOKENS
from ringlight.families.traffic import attention_elements
from ringlight.families.work import Work
from ringlight.planner.machine import Machine
from ringlight.planner.replay import Block, replay


def block_of(work: Work, layout: ParallelLayout, num_slices: int, machine: Machine) -> Block:
    """A block on rank 0, which has most tokens and heads, its forward sent in so many slices.

    offer     = operations of q, k and v / products
    attention = 4 G N h D / attention
    finish    = operations of all other products / products + elementwise bytes n / memory

    for n own tokens of N, G tokens of the Ulysses group, h own heads of width D.
    Weights are read once for each slice and each 4,096 tokens of it: their bytes / memory. Kernels that are started
    one after another bound it from below. What it sends: families/traffic.
    """
    network, num_tokens, itemsize = work.spec.transformer, work.num_tokens, machine.settings.itemsize
    own = split_sizes(num_tokens, layout.sp)[0]
    group = sum(split_sizes(num_tokens, layout.sp)[: layout.ulysses])
    heads = split_sizes(network.num_attention_heads, layout.ulysses)[0]
    layers, products, memory = network.layers.block, machine.products, machine.memory_rate
    passes = num_slices * math.ceil(own / num_slices / SLICE_TOKENS)
    weights = layers.parameters * itemsize / memory * passes
    offer = layers.to_qkv.flops(own) / products
    attention = 4.0 * group * num_tokens * heads * network.attention_head_dim / machine.attention
    finish = sum(matrix.flops(own) for matrix in layers.after_attention) / products
    finish += weights + own * network.elementwise_bytes(machine.card.is_cpu, itemsize) / memory
    missing = max(0.0, machine.card.launch_seconds - offer - attention - finish)
    offer, attention, finish = (machine.corrected("Denoising", x) for x in (offer, attention, finish + missing))
    sent = attention_elements(layout, 0, num_tokens, network.num_attention_heads, ahead=num_slices > 1)
    unit, there = network.attention_head_dim * itemsize, 3 * own * (network.num_attention_heads - heads)
    return Block(
        offer=offer,
        attention=attention,
        finish=finish,
        ring_bytes=float(sent["ring"] * unit),
        there_bytes=float(there * unit),
        back_bytes=float((sent["ulysses"] - there) * unit),
        num_ring=layout.ring,
        num_ulysses=layout.ulysses,
    )


def denoising_seconds(
    work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan
) -> tuple[float, float, float]:
    """(compute, link in all, link exposed) seconds of all steps.

    A step is one forward, or two with guidance on one rank group; each is `num_layers` blocks, replayed with their
    messages. After it the head's output is gathered, and two branches exchange predictions, with nothing to hide under.
    """
    network, link, itemsize = work.spec.transformer, machine.link, machine.settings.itemsize
    block = block_of(work, layout, plan.num_slices, machine)
    forwards = work.num_forwards(layout)
    speed = (link.bytes_per_second, link.latency_seconds, link.busy_seconds_per_byte)
    step = replay(block, network.num_layers, plan.num_slices, forwards, plan.take_turns, speed)
    own = split_sizes(work.num_tokens, layout.sp)[0]
    out = own * network.out_channels * math.prod(network.patch_size) * itemsize
    bare = forwards * link.bare_seconds(out * (layout.sp - 1), layout.sp - 1)
    if layout.cfg == 2:
        bare += link.bare_seconds(work.latent_values * itemsize, 1)
    calls = work.num_calls
    return calls * step.computed, calls * (step.link + bare), calls * (step.exposed + bare)
