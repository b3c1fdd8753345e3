"""Seconds of Denoising: what a rank computes in a block, and what link and bus add (replay)."""

from __future__ import annotations

import math

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.portions import SLICE_TOKENS
from ringlight.core.weights import TRANSFORMERS
from ringlight.families.traffic import attention_elements
from ringlight.families.work import Work
from ringlight.planner.adapting import adding_seconds
from ringlight.planner.hardware import Bus
from ringlight.planner.host_room import way_of
from ringlight.planner.machine import LAYING_OUT, Machine
from ringlight.planner.memory import SLOTS
from ringlight.planner.replay import Block, Replayed, Streamed, replay
from ringlight.planner.stage import StageCost


def block_of(
    work: Work, layout: ParallelLayout, num_slices: int, machine: Machine, placement: Placement | None = None
) -> Block:
    """A block on rank 0, which has most tokens and heads, its forward sent in so many slices.

    offer     = operations of q, k and v / products
    attention = 4 G N h D / attention
    finish    = operations of all other products / products + elementwise bytes n / memory

    for n own tokens of N, G tokens of the Ulysses group, h own heads of width D.
    Weights are read once for each slice and each 4,096 tokens of it: their bytes / memory; those in eight bits are
    widened before that, once. Kernels that are started
    one after another bound it from below. What it sends: families/traffic. Of a CPU's blocks that are used where the
    host has them, products take longer: all blocks are alike here, each as the mean of them.
    """
    network, num_tokens, itemsize = work.spec.transformer, work.num_tokens, machine.settings.itemsize
    own = split_sizes(num_tokens, layout.sp)[0]
    group = sum(split_sizes(num_tokens, layout.sp)[: layout.ulysses])
    heads = split_sizes(network.num_attention_heads, layout.ulysses)[0]
    layers, products, memory = network.layers.block, machine.products, machine.memory_rate
    if placement is not None:
        products /= 1 + (machine.in_place - 1) * placement.streamed_blocks / network.num_layers
    passes = num_slices * math.ceil(own / num_slices / SLICE_TOKENS)
    weights = layers.parameters * itemsize / memory * passes
    offer = layers.to_qkv.flops(own) / products
    attention = 4.0 * group * num_tokens * heads * network.attention_head_dim / machine.attention
    finish = sum(matrix.flops(own) for matrix in layers.after_attention) / products
    finish += layers.widening_bytes(itemsize) / memory
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


def denoising(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds: steps x (blocks replayed with messages and weights + gather of the head's output + branch exchange).

    A step is one forward, or two with guidance on one rank group; each is `num_layers` blocks. After it the head's
    output is gathered, and two branches exchange predictions, with nothing to hide under. LoRAs add to each block.
    With a placement each expert that has a step comes once, and its blocks by its own way.
    """
    network, link, itemsize = work.spec.transformer, machine.link, machine.settings.itemsize
    forwards = work.num_forwards(layout)
    own = split_sizes(work.num_tokens, layout.sp)[0]
    block = block_of(work, layout, plan.num_slices, machine, plan.placement)
    added = adding_seconds(work, machine, own, plan.placement, forwards if plan.take_turns else 1)
    block = msgspec.structs.replace(block, finish=block.finish + machine.corrected("Denoising", added))
    speed = (link.bytes_per_second, link.latency_seconds, link.busy_seconds_per_byte)
    ways = (network.num_layers, plan.num_slices, forwards, plan.take_turns, speed)
    step = replay(block, *ways)
    out = own * network.out_channels * math.prod(network.patch_size) * itemsize
    bare = forwards * link.bare_seconds(out * (layout.sp - 1), layout.sp - 1)
    if layout.cfg == 2:
        bare += link.bare_seconds(work.latent_values * itemsize, 1)
    calls = work.num_calls
    bus = exposed = 0.0
    for expert, own_calls in zip(TRANSFORMERS, work.calls_by_expert, strict=False):
        way = way_of(expert, work.spec, machine)
        streamed = streamed_blocks(work, machine, plan.placement, way)
        fed = step if streamed is None else replay(block, *ways, streamed)
        first, waited = _entry(work, machine, plan.placement, fed, way) if own_calls else (0.0, 0.0)
        bus += first + own_calls * fed.bus
        exposed += waited + own_calls * min(fed.bus, max(0.0, fed.elapsed - step.elapsed))
    return StageCost(
        name="Denoising",
        compute_seconds=calls * step.computed,
        link_seconds=calls * (step.link + bare),
        exposed_seconds=calls * (step.exposed + bare),
        bus_seconds=bus,
        bus_exposed_seconds=exposed,
    )


def streamed_blocks(work: Work, machine: Machine, placement: Placement | None, way: Bus) -> Streamed | None:
    """Blocks that come over this bus for every pass; None if there are none, as on a CPU, which uses them in place."""
    if placement is None or not placement.streamed_blocks or machine.card.is_cpu:
        return None
    layers, count = work.spec.transformer.layers, placement.streamed_blocks
    return Streamed(
        blocks=tuple(round(index * layers.num_blocks / count) for index in range(count)),
        block_bytes=layers.block.forward_bytes(machine.settings.itemsize),
        bytes_per_second=way.bytes_per_second,
        slots=min(SLOTS, count),
        shares_lane=machine.link.shares_bus,
    )


def _entry(work: Work, machine: Machine, placement: Placement | None, step: Replayed, way: Bus) -> tuple[float, float]:
    """(bus, exposed) seconds before the first step is as every other one, with a placement.

    What stands outside the blocks and what makes keys of texts come first, in the open. Blocks that stay come in the
    same order as the others, under the first step. On a CPU all that stays is packed by a core, in the open.
    """
    if placement is None:
        return 0.0, 0.0
    layers, itemsize = work.spec.transformer.layers, machine.settings.itemsize
    block, kept = layers.block.forward_bytes(itemsize), layers.num_blocks - placement.streamed_blocks
    outside = layers.outside_bytes(itemsize)
    if machine.card.is_cpu:
        packed = LAYING_OUT * (outside + kept * block) / itemsize if machine.packs_weights else 0.0
        return packed, packed
    first = way.seconds(outside + layers.num_blocks * layers.block.text_bytes(itemsize))
    under = max(0.0, way.seconds(layers.num_blocks * block) - step.elapsed)
    return first + way.seconds(kept * block), first + under
