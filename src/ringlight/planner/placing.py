"""Placing: where a rank keeps what it needs, chosen by predicted seconds among all that fits.

Denoising and Decoding are chosen apart, for each has the device to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.families.work import Work
from ringlight.planner.adapting import hosted_adapter_bytes
from ringlight.planner.decoding_cost import DecodingCosts
from ringlight.planner.denoising import denoising
from ringlight.planner.host_room import history_room
from ringlight.planner.machine import Machine
from ringlight.planner.memory import (
    base_bytes,
    decoder_weights,
    decoding_bytes,
    denoising_bytes,
    denoising_weights,
    host_history_bytes,
    stage_of,
    usable_bytes,
)
from ringlight.planner.stage import StageCost

ALIKE = 1.001  # of the least seconds: ways this close are equally quick


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """Way to run a stage: the plan that says it, and what the stage then reserves of the device."""

    plan: JobPlan
    peak_bytes: int

    @property
    def placement(self) -> Placement:
        assert self.plan.placement is not None
        return self.plan.placement


def placed(work: Work, layout: ParallelLayout, machine: Machine, resident: JobPlan) -> JobPlan:
    """Choose the fastest plan that fits; `resident` is the plan with all on the device.

    If none fits, it is the one that needs least.
    """
    limit = usable_bytes(machine)
    by_turns = denoising_options(work, layout, machine, resident).values()
    first = _best(
        [_first_that_fits(options, limit) for options in by_turns],
        limit,
        lambda plan: denoising(work, layout, machine, plan),
    )
    options = decoding_options(work, layout, machine, resident)
    return joined(first, _best(options, limit, DecodingCosts(work, layout, machine).of))


def joined(first: Option, last: Option) -> JobPlan:
    """Join two plans: Denoising of the first option, Decoding of the last one."""
    placement = msgspec.structs.replace(last.placement, streamed_blocks=first.placement.streamed_blocks)
    return msgspec.structs.replace(first.plan, decode_chunk=last.plan.decode_chunk, placement=placement)


def denoising_options(
    work: Work, layout: ParallelLayout, machine: Machine, resident: JobPlan
) -> dict[bool, list[Option]]:
    """Ways to place the transformer, by whether two forwards alternate and share a pass over the weights.

    Each way streams more blocks than the one before, which takes longer and needs less memory. On a CPU nothing
    travels, so that turns stay as they are.
    """
    both = work.num_forwards(layout) == 2 and not machine.card.is_cpu
    found: dict[bool, list[Option]] = {}
    for turns in dict.fromkeys((resident.take_turns, resident.take_turns or both)):
        plan = msgspec.structs.replace(resident, take_turns=turns)
        stage = stage_of("Denoising", denoising_bytes(work, layout, machine, plan), machine)
        beside = base_bytes(machine) + stage.work_bytes + stage.slack_bytes
        options: list[Option] = []
        for count in range(work.spec.transformer.num_layers + 1):
            placement = Placement(streamed_blocks=count)
            peak = beside + denoising_weights(work, machine, placement)
            if not options or peak < options[-1].peak_bytes:  # as many slots as streamed blocks save nothing
                options.append(Option(plan=_with(plan, placement), peak_bytes=peak))
        found[turns] = options
    return found


def decoding_options(work: Work, layout: ParallelLayout, machine: Machine, resident: JobPlan) -> list[Option]:
    """All ways to decode, those first that leave most as it is."""
    spec = work.spec
    levels = 0 if machine.card.is_cpu or work.latent_shape[1] == 1 else len(spec.vae.decoder.levels)
    least = 2 if machine.uses_winograd else 1
    portions = _portions(work, layout, machine)
    found = {}
    room = history_room(spec, layout.num_ranks, machine) - hosted_adapter_bytes(work, machine)
    for streams, history, at_once, portion in product((False, True), range(levels + 1), (0, least), portions):
        placement = Placement(streams_decoder=streams, host_history=history, frames_at_once=at_once)
        if history and host_history_bytes(work, layout, machine, placement) > room:
            continue
        plan = _with(msgspec.structs.replace(resident, decode_chunk=portion), placement)
        stage = stage_of("Decoding", decoding_bytes(work, layout, machine, plan), machine)
        weights = decoder_weights(spec, machine, placement)
        peak = base_bytes(machine) + weights + stage.work_bytes + stage.slack_bytes
        found[placement, portion] = Option(plan=plan, peak_bytes=peak)
    return list(found.values())


def _portions(work: Work, layout: ParallelLayout, machine: Machine) -> list[int]:
    """Portions of latent frames to try.

    They are as asked, else as many as a quarter of what is left beside the decoder's weights holds; or as many as
    without a budget, half of them and so on, for weights that are streamed come once for each portion.
    """
    spec, settings, card = work.spec, machine.settings, machine.card
    decoder, (own, columns, _) = spec.vae.decoder, work.band(layout)
    weights = decoder_weights(spec, machine, Placement())
    usual, most = (
        decoder.portion(
            own, columns, settings.vae_itemsize, 0 if card.is_cpu else room - weights, settings.decode_chunk
        )
        for room in (usable_bytes(machine), card.memory_bytes - card.context_bytes)
    )
    if settings.decode_chunk:
        return [usual]
    return list(dict.fromkeys([usual, *(most >> halvings for halvings in range(most.bit_length()))]))


def _with(plan: JobPlan, placement: Placement) -> JobPlan:
    return msgspec.structs.replace(plan, placement=placement)


def _first_that_fits(options: list[Option], limit: int) -> Option:
    """First option that fits, else the last, which needs least."""
    return next((option for option in options if option.peak_bytes <= limit), options[-1])


def _best(options: list[Option], limit: int, cost: Callable[[JobPlan], StageCost]) -> Option:
    """Best option: the quickest that fits, of equally quick ones the one that moves least; else the smallest."""
    fitting = [option for option in options if option.peak_bytes <= limit]
    if not fitting:
        return min(options, key=lambda option: option.peak_bytes)
    costs = [cost(option.plan) for option in fitting]
    least = min(found.seconds for found in costs)
    alike = [(found, option) for found, option in zip(costs, fitting, strict=True) if found.seconds <= least * ALIKE]
    return min(alike, key=lambda pair: pair[0].bus_seconds)[1]
