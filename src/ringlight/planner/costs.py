"""Seconds of every stage of a request on a layout, one function each. Formulas stand in their docstrings.

Every function takes (work, layout, machine, plan), and returns a `StageCost` of rank 0, which has at least as many
tokens, rows and heads as any other. `layout` is what the request runs on (core/layout.layout_for).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan
from ringlight.core.portions import split_runs
from ringlight.families.model import ModelSpec
from ringlight.families.traffic import text_bytes
from ringlight.families.work import Work
from ringlight.planner.decoding_cost import activation_seconds, decoding
from ringlight.planner.denoising import denoising
from ringlight.planner.hardware import RunSettings
from ringlight.planner.host_room import way_of
from ringlight.planner.machine import FILE_BYTES_PER_SECOND, Machine
from ringlight.planner.memory import SLOTS, checkpoint_bytes
from ringlight.planner.stage import StageCost

ORDINARY_PROMPT = "a prompt of ordinary length " * 11  # some 77 tokens; its words do not matter
CHARACTERS_PER_TOKEN = 4  # of English; a prompt is never tokenised here
PROMPT_SECONDS = 0.005  # tokenising, and one layer after another of few tokens: assumed
NORMAL_VALUES_PER_SECOND = 1e8  # noise from a CPU generator, one thread: assumed
PICTURE_PIXELS_PER_SECOND = 20e6  # decoding and resizing a picture on one core: assumed
VIDEO_PIXELS_PER_SECOND = 60e6  # x264 beside the decoder, a few cores: assumed
START_SECONDS = 10.0  # imports and joining the group: assumed


Cost = Callable[[Work, ParallelLayout, Machine, JobPlan], StageCost]


def prompt_tokens(prompt: str, spec: ModelSpec) -> int:
    """Estimated number of a prompt's tokens, its end mark included."""
    return min(spec.max_text_tokens, 1 + math.ceil(len(prompt) / CHARACTERS_PER_TOKEN))


def input_validation(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds to decode a first frame: its pixels / what a core decodes and resizes; 0 without one."""
    request = work.request
    pixels = request.width * request.height if request.image is not None else 0
    return StageCost(
        name="InputValidation",
        compute_seconds=machine.corrected("InputValidation", pixels / PICTURE_PIXELS_PER_SECOND),
    )


def text_encoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds of all prompts, one after another through the layers, a run of which lies on each of H ranks.

    (H - 1 + prompts) / H x (weights / memory + operations / text + a little), and H - 1 + prompts messages. With a
    placement: `_streamed_text`.
    """
    if plan.placement is not None:
        return _streamed_text(work, layout, machine)
    spec, itemsize = work.spec, machine.settings.itemsize
    lengths = [prompt_tokens(prompt, spec) for prompt in work.prompts]
    layers = spec.text_encoder.layers
    holders = sum(map(bool, split_runs(layers.parts, layout.num_ranks)))
    read = sum(layers.bytes_of_parts(itemsize)[1:]) / machine.memory_rate
    one = max(read + layers.flops(length) / machine.text for length in lengths) + PROMPT_SECONDS
    turns = holders - 1 + len(lengths)
    values = sum(lengths) * spec.text_encoder.d_model
    last = text_bytes(holders, layout.num_ranks, holders - 1, values, itemsize)
    link = machine.link.seconds(last, layout.num_ranks - 1 + turns - len(lengths)) if layout.num_ranks > 1 else 0.0
    seconds = machine.corrected("TextEncoding", one * turns / holders)
    return StageCost(name="TextEncoding", compute_seconds=seconds, link_seconds=link, exposed_seconds=link)


def _streamed_text(work: Work, layout: ParallelLayout, machine: Machine) -> StageCost:
    """Seconds of all prompts in layers whose weights are streamed.

    They are weights / memory + operations / text + a little for each prompt, one rank after another, with a message
    from each to the next and of the result to all.

    Layers come over the bus under that, a slot ahead; what other ranks have in their slots is there when it is their
    turn. On a CPU they are used where the host has them, which takes products longer.
    """
    spec, itemsize, ranks = work.spec, machine.settings.itemsize, layout.num_ranks
    lengths, layers = [prompt_tokens(prompt, spec) for prompt in work.prompts], spec.text_encoder.layers
    holders = sum(map(bool, split_runs(layers.parts, ranks)))
    weights = sum(layers.bytes_of_parts(itemsize)[1:])
    products = sum(map(layers.flops, lengths)) / machine.text * machine.in_place
    seconds = machine.corrected(
        "TextEncoding", weights / machine.memory_rate + products + len(lengths) * PROMPT_SECONDS
    )
    values = sum(lengths) * spec.text_encoder.d_model
    last = text_bytes(holders, ranks, holders - 1, values, itemsize)
    link = machine.link.seconds(last, ranks - 1 + holders - 1) if ranks > 1 else 0.0
    way = way_of("text_encoder", spec, machine)
    bus = 0.0 if machine.card.is_cpu else way.seconds(weights)
    ready = way.seconds((holders - 1) * SLOTS * max(layers.bytes_of_parts(itemsize)[1:]))
    return StageCost(
        name="TextEncoding",
        compute_seconds=seconds,
        link_seconds=link,
        exposed_seconds=link,
        bus_seconds=bus,
        bus_exposed_seconds=max(0.0, bus - ready - seconds),
    )


def image_encoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds to encode pictures on the largest band of rows: operations / convolution + activations / memory.

    All edge rows travel in the open; with a placement the encoder's weights come too. It is of one frame, or of all
    frames of a condition; and operations of an image encoder / products, on every rank.
    """
    _, _, rows, columns = work.latent_shape
    count, size = work.encoded_latents, (rows, columns)
    own = split_sizes(rows, layout.num_ranks)[0]
    encoder = work.spec.vae.encoder
    flops, layers = encoder.flops(own, rows, columns, count), encoder.convolutions
    seconds = flops / machine.convolution
    for layer in layers:
        seconds += activation_seconds(layer, own * columns, 1 + (count - 1) * layer.frames, machine)
    way, placed = way_of("vae", work.spec, machine), plan.placement is not None
    bus = way.seconds(encoder.parameters * machine.settings.vae_itemsize) if placed else 0.0
    if (network := work.spec.image_encoder) is not None:
        seconds += len(work.request.pictures) * network.flops / machine.products
        way = way_of("image_encoder", work.spec, machine)
        bus += way.seconds(network.parameters * machine.settings.itemsize) if placed else 0.0
    link = 0.0
    if layout.num_ranks > 1:
        sent = encoder.sent_bytes(layout.num_ranks, 0, size, machine.settings.vae_itemsize, count)
        link = machine.link.bare_seconds(sum(sent.values()), count * (sum(layer.has_halo for layer in layers) + 2))
    return StageCost(
        name="ImageEncoding",
        compute_seconds=machine.corrected("ImageEncoding", seconds),
        link_seconds=link,
        exposed_seconds=link,
        bus_seconds=bus,
        bus_exposed_seconds=bus,
    )


def latent_preparation(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds of noise: values / values a second of a CPU generator; every rank draws all of them."""
    seconds = machine.corrected("LatentPreparation", work.latent_values / NORMAL_VALUES_PER_SECOND)
    return StageCost(name="LatentPreparation", compute_seconds=seconds)


def output(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds of the last portion: pixels / pixels a second of the encoder, which writes the others during Decoding."""
    request = work.request
    frames = min(request.num_frames, plan.decode_chunk * work.spec.vae.scale_factor_temporal)
    seconds = frames * request.width * request.height / VIDEO_PIXELS_PER_SECOND
    return StageCost(name="Output", compute_seconds=machine.corrected("Output", seconds))


def load_seconds(spec: ModelSpec, settings: RunSettings) -> float:
    """Seconds to start a process and read the checkpoint: bytes, in the dtype used, / bytes a second of the disk."""
    return START_SECONDS + checkpoint_bytes(spec, settings.itemsize) / FILE_BYTES_PER_SECOND


STAGES: tuple[Cost, ...] = (
    input_validation,
    text_encoding,
    image_encoding,
    latent_preparation,
    denoising,
    decoding,
    output,
)


def stage_costs(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> list[StageCost]:
    """Costs of all stages that a request runs, in the report's names and order, and Other: what a measurement adds."""
    stages = [
        stage(work, layout, machine, plan) for stage in STAGES if stage is not image_encoding or work.encoded_latents
    ]
    return [*stages, StageCost(name="Other", compute_seconds=machine.hardware.correction.other_seconds)]
