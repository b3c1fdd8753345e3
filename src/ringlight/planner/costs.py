"""Seconds of every stage of a request on a layout, one function each. Formulas stand in their docstrings.

Every function takes (work, layout, machine, plan), and returns a `StageCost` of rank 0, which has at least as many
tokens, rows and heads as any other. `layout` is what the request runs on (core/layout.layout_for).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan
from ringlight.core.portions import split_runs
from ringlight.families.layers.convolution import Convolution
from ringlight.families.model import ModelSpec
from ringlight.families.traffic import text_bytes
from ringlight.families.work import Work
from ringlight.planner.denoising import denoising_seconds
from ringlight.planner.hardware import RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.memory import checkpoint_parameters

ORDINARY_PROMPT = "a prompt of ordinary length " * 11  # some 77 tokens; its words do not matter
CHARACTERS_PER_TOKEN = 4  # of English; a prompt is never tokenised here
PROMPT_SECONDS = 0.005  # tokenising, and one layer after another of few tokens: assumed
NORMAL_VALUES_PER_SECOND = 1e8  # noise from a CPU generator, one thread: assumed
PICTURE_PIXELS_PER_SECOND = 20e6  # decoding and resizing a picture on one core: assumed
VIDEO_PIXELS_PER_SECOND = 60e6  # x264 beside the decoder, a few cores: assumed
WEIGHTS_BYTES_PER_SECOND = 2e9  # from a disk that has them in its cache or is fast: assumed
START_SECONDS = 10.0  # imports and joining the group: assumed
ACTIVATION_PASSES = 8  # reads and writes of each activation that a normed convolution sees


class StageCost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one stage: its own work, and the link's, of which `exposed_seconds` add to it."""

    name: str
    compute_seconds: float
    link_seconds: float = 0.0
    exposed_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds

    @property
    def hidden_seconds(self) -> float:
        return self.link_seconds - self.exposed_seconds


Cost = Callable[[Work, ParallelLayout, Machine, JobPlan], StageCost]


def prompt_tokens(prompt: str, spec: ModelSpec) -> int:
    """About how many tokens a prompt has, its end mark included."""
    return min(spec.max_text_tokens, 1 + math.ceil(len(prompt) / CHARACTERS_PER_TOKEN))


def input_validation(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """A first frame's pixels / what a core decodes and resizes; nothing without one."""
    request = work.request
    pixels = request.width * request.height if request.image is not None else 0
    return StageCost(
        name="InputValidation",
        compute_seconds=machine.corrected("InputValidation", pixels / PICTURE_PIXELS_PER_SECOND),
    )


def text_encoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Prompts go one after another through the layers, a run of which lies on each of the H ranks that hold any:

    (H - 1 + prompts) / H x (weights / memory + operations / text + a little), and H - 1 + prompts messages.
    """
    spec, itemsize = work.spec, machine.settings.itemsize
    lengths = [prompt_tokens(prompt, spec) for prompt in work.prompts]
    layers = spec.text_encoder.layers
    holders = sum(map(bool, split_runs(layers.parts, layout.num_ranks)))
    read = sum(layers.parts[1:]) * itemsize / machine.memory_rate
    one = max(read + layers.flops(length) / machine.text for length in lengths) + PROMPT_SECONDS
    turns = holders - 1 + len(lengths)
    values = sum(lengths) * spec.text_encoder.d_model
    last = text_bytes(holders, layout.num_ranks, holders - 1, values, itemsize)
    link = machine.link.seconds(last, layout.num_ranks - 1 + turns - len(lengths)) if layout.num_ranks > 1 else 0.0
    seconds = machine.corrected("TextEncoding", one * turns / holders)
    return StageCost(name="TextEncoding", compute_seconds=seconds, link_seconds=link, exposed_seconds=link)


def image_encoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Operations of the largest band of rows / convolution + activations / memory, and all edge rows in the open."""
    _, _, rows, columns = work.latent_shape
    own = split_sizes(rows, layout.num_ranks)[0]
    encoder = work.spec.vae.encoder
    flops, layers = encoder.flops(own, rows, columns), encoder.convolutions
    seconds = flops / machine.convolution
    seconds += sum(_activation_seconds(layer, own * columns, 1, machine) for layer in layers)
    link = 0.0
    if layout.num_ranks > 1:
        sent = sum(encoder.sent_bytes(layout.num_ranks, 0, (rows, columns), machine.settings.vae_itemsize).values())
        link = machine.link.bare_seconds(sent, sum(layer.has_halo for layer in layers) + 2)
    return StageCost(
        name="ImageEncoding",
        compute_seconds=machine.corrected("ImageEncoding", seconds),
        link_seconds=link,
        exposed_seconds=link,
    )


def latent_preparation(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Values of noise / values a second of a CPU generator; every rank draws all of them."""
    seconds = machine.corrected("LatentPreparation", work.latent_values / NORMAL_VALUES_PER_SECOND)
    return StageCost(name="LatentPreparation", compute_seconds=seconds)


def denoising(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """steps x (blocks replayed with their messages + gather of the head's output + exchange between branches).

    What a block takes: planner/denoising. What of its link is hidden: planner/replay.
    """
    compute, link, exposed = denoising_seconds(work, layout, machine, plan)
    return StageCost(name="Denoising", compute_seconds=compute, link_seconds=link, exposed_seconds=exposed)


def decoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Operations of the largest band / convolution + activations / memory, over all latent frames.

    Edge rows of a convolution travel while the rest of its activation is written (on a CPU also while its inner rows
    are convolved), so of each message shows what is longer than that; keys and values of the mid block's attention are
    waited for; frames travel to rank 0 under the next portion, and those of the last one in the open.
    """
    _, num_latents, rows, columns = work.latent_shape
    request, layers, ranks, portion = work.request, work.spec.vae.decoder, layout.num_ranks, plan.decode_chunk
    own = split_sizes(rows, ranks)[0]
    rate, winograd, itemsize = machine.convolution, machine.uses_winograd, machine.settings.vae_itemsize
    compute = link = exposed = 0.0
    for first, size, count in ((True, 1, 1), (False, portion, (num_latents - 1) / portion)):
        flops = layers.flops(own, rows, columns, first, winograd)
        seconds = size * flops / rate
        for layer in layers.convolutions:
            frames = 1 if first else size * layer.frames
            written = _activation_seconds(layer, own * columns, frames, machine)
            seconds += written
            if ranks > 1 and layer.has_halo and not (first and layer.skips_first):
                edge = frames * layer.inputs * layer.scale * columns * itemsize * min(2, ranks - 1)
                message = machine.link.seconds(edge, 1)
                under = machine.corrected("Decoding", written)
                if winograd and layer.in_pairs and not first:
                    under += machine.corrected("Decoding", layer.flops(own * columns, first, winograd) * size / rate)
                busy = edge * machine.link.busy_seconds_per_byte
                link += count * (message + busy)
                exposed += count * (max(0.0, message - under) + busy)
        compute += count * seconds
        if ranks > 1:
            gathered = 2 * layers.mid.channels * own * columns * size
            waited = machine.link.bare_seconds(gathered * itemsize * (ranks - 1), ranks - 1)
            link, exposed = link + count * waited, exposed + count * waited
    if ranks > 1:
        frames_bytes = 3 * request.num_frames * request.width * request.height * (rows - own) / rows
        sent = machine.link.bare_seconds(frames_bytes, 1 + (num_latents - 1) / portion)
        last = min(1.0, portion / num_latents)
        busy = frames_bytes * machine.link.busy_seconds_per_byte
        link, exposed = link + sent, exposed + max(busy, last * sent)
    return StageCost(
        name="Decoding",
        compute_seconds=machine.corrected("Decoding", compute),
        link_seconds=link,
        exposed_seconds=exposed,
    )


def output(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Pixels of the last portion / pixels a second of the encoder, which has written the others during Decoding."""
    request = work.request
    frames = min(request.num_frames, plan.decode_chunk * work.spec.vae.scale_factor_temporal)
    seconds = frames * request.width * request.height / VIDEO_PIXELS_PER_SECOND
    return StageCost(name="Output", compute_seconds=machine.corrected("Output", seconds))


def load_seconds(spec: ModelSpec, settings: RunSettings) -> float:
    """Start of a process + bytes of the checkpoint, in the dtype that it is used in, / bytes a second of the disk."""
    return START_SECONDS + checkpoint_parameters(spec) * settings.itemsize / WEIGHTS_BYTES_PER_SECOND


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
    """All stages that a request runs, in the report's names and order, and Other: what a measurement found beside."""
    stages = [
        stage(work, layout, machine, plan)
        for stage in STAGES
        if stage is not image_encoding or work.request.image is not None
    ]
    return [*stages, StageCost(name="Other", compute_seconds=machine.hardware.correction.other_seconds)]


def _activation_seconds(layer: Convolution, latent_pixels: int, frames: int, machine: Machine) -> float:
    """Norm, activation, window and history of what a normed convolution sees."""
    if not layer.is_normed:
        return 0.0
    elements = frames * latent_pixels * layer.scale**2 * layer.inputs
    return ACTIVATION_PASSES * elements * machine.settings.vae_itemsize / machine.memory_rate
