"""Seconds of Decoding: what a rank convolves, and what link and bus add to it."""

from __future__ import annotations

from collections import Counter

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan, Placement
from ringlight.families.layers.convolution import Convolution
from ringlight.families.work import Work
from ringlight.planner.host_room import way_of
from ringlight.planner.machine import LAYING_OUT, Machine
from ringlight.planner.stage import StageCost

ACTIVATION_PASSES = 8  # reads and writes of each activation that a normed convolution sees


def decoding(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> StageCost:
    """Seconds of all latent frames on the largest band: operations / convolution + activations / memory.

    Edge rows of a convolution travel while the rest of its activation is written (on a CPU also while its inner rows
    are convolved), so of each message shows what is longer than that; keys and values of the mid block's attention are
    waited for; frames travel to rank 0 under the next portion, and those of the last one in the open.
    """
    return DecodingCosts(work, layout, machine).of(plan)


class DecodingCosts:
    """Costs of `decoding` for many plans of a request on a layout, with what they share computed once."""

    def __init__(self, work: Work, layout: ParallelLayout, machine: Machine) -> None:
        self._case = work, layout, machine
        self._by_portion: dict[int, tuple[float, float, float]] = {}

    def of(self, plan: JobPlan) -> StageCost:
        """Seconds of Decoding as a plan has it."""
        if plan.decode_chunk not in self._by_portion:
            self._by_portion[plan.decode_chunk] = _convolved(*self._case, plan.decode_chunk)
        compute, link, exposed = self._by_portion[plan.decode_chunk]
        bus, waited = _transfers(*self._case, plan, plan.placement) if plan.placement else (0.0, 0.0)
        return StageCost(
            name="Decoding",
            compute_seconds=compute,
            link_seconds=link,
            exposed_seconds=exposed,
            bus_seconds=bus,
            bus_exposed_seconds=waited,
        )


def _convolved(work: Work, layout: ParallelLayout, machine: Machine, portion: int) -> tuple[float, float, float]:
    """(compute, link, exposed) seconds with so many latent frames at a time."""
    _, num_latents, rows, columns = work.latent_shape
    request, layers, ranks = work.request, work.spec.vae.decoder, layout.num_ranks
    own = split_sizes(rows, ranks)[0]
    rate, winograd, itemsize = machine.convolution, machine.uses_winograd, machine.settings.vae_itemsize
    compute = link = exposed = 0.0
    for first, size, count in ((True, 1, 1), (False, portion, (num_latents - 1) / portion)):
        flops = layers.flops(own, rows, columns, first, winograd)
        seconds = size * flops / rate
        for layer in layers.convolutions:
            frames = 1 if first else size * layer.frames
            written = activation_seconds(layer, own * columns, frames, machine)
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
    return machine.corrected("Decoding", compute), link, exposed


def _transfers(
    work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan, placement: Placement
) -> tuple[float, float]:
    """Seconds of weights and history on the way: (bus, exposed).

    Weights come in the open, all of them once, or a part whenever it is next; a CPU, which has them, lays them out as
    often. History comes and goes, both ways at once, under what its own stage of the decoder computes in later
    portions.
    """
    layers, itemsize, winograd = work.spec.vae.decoder, machine.settings.vae_itemsize, machine.uses_winograd
    own, columns, is_split = work.band(layout)
    portion, later = plan.decode_chunk, (work.latent_shape[1] - 1) / plan.decode_chunk
    at_most = layers.frames_at_once(own, columns, portion, asked=placement.frames_at_once, in_pairs=winograd)
    visits = Counter(visit.stage for visit in layers.visits(portion, False, at_most))
    is_cpu = machine.card.is_cpu
    parts = layers.made_of_parts(winograd) if is_cpu else layers.parts
    weights = float(sum(parts))
    if placement.streams_decoder:  # each stage once for the first latent frame
        weights += later * sum(parts[stage] * count for stage, count in visits.items())
    bus = exposed = LAYING_OUT * weights if is_cpu else way_of("vae", work.spec, machine).seconds(weights * itemsize)
    for stage, within in enumerate(layers.stages):
        if not layers.on_host(stage, placement.host_history):
            continue
        kept = visits[stage] * sum(layer.history_elements(own, columns, is_split) for layer in within)
        moved = machine.bus.seconds(kept * itemsize)
        flops = portion * sum(layer.flops(own * columns, False, winograd) for layer in within)
        written = (activation_seconds(each, own * columns, portion * each.frames, machine) for each in within)
        computed = machine.corrected("Decoding", flops / machine.convolution + sum(written))
        bus, exposed = bus + later * moved, exposed + later * max(0.0, moved - computed)
    return bus, exposed


def activation_seconds(layer: Convolution, latent_pixels: int, frames: int, machine: Machine) -> float:
    """Seconds of norm, activation, window and history of what a normed convolution sees."""
    if not layer.is_normed:
        return 0.0
    elements = frames * latent_pixels * layer.scale**2 * layer.inputs
    return ACTIVATION_PASSES * elements * machine.settings.vae_itemsize / machine.memory_rate
