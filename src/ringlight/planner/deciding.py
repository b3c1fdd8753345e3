"""Decisions on how a job runs on its ranks.

They are what it sends ahead, whether its forwards alternate, what it decodes at a time, what it keeps where, and how
often its ranks agree within a step. Plans count on them, and workers follow them.
"""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan
from ringlight.families.traffic import attention_elements
from ringlight.families.work import Work
from ringlight.planner.denoising import block_of, denoising
from ringlight.planner.machine import Machine
from ringlight.planner.measured import as_measured
from ringlight.planner.memory import fits, spare_bytes
from ringlight.planner.placing import placed

# Link seconds to compute seconds of a layer from which so many slices pay, and from which two forwards on the same
# ranks should take turns, which by themselves hide most (docs/log.md).
SLICES_FROM = ((0.8, 4), (0.55, 3), (0.1, 2))
SLICES_IN_TURNS_FROM = ((0.6, 2),)
TURNS_FROM = 0.05
LEAST_SLICE_TOKENS = 16

# A step that takes longer is not waited for by who cancels a job or is more urgent: its ranks agree as often as this,
# which costs each time 0.1 to 1 ms, or 2 where a GPU is idle meanwhile. A quarter of the first, for predictions err.
LONG_STEP_SECONDS, AGREEMENT_SECONDS = 2.0, 0.5
SLOWEST_UNKNOWN = 10.0  # times as slow as the card that stands in for it a device may be


def job_plan(work: Work, layout: ParallelLayout, machine: Machine) -> JobPlan:
    """Decide how a request runs on a layout: by the settings, else by sizes and speeds.

    Measured speeds of the ranks count before assumed ones.

    All on the device where that may be and fits, else what is predicted to be fastest of all that fits, and where
    nothing does, what needs least memory.
    """
    machine = as_measured(work, layout, machine)
    plan = resident_plan(work, layout, machine)
    if machine.residency == "placed" or (machine.residency == "any" and not fits(work, layout, machine, plan)):
        plan = placed(work, layout, machine, plan)
    return msgspec.structs.replace(plan, blocks_per_agreement=_blocks_per_agreement(work, layout, machine, plan))


def resident_plan(work: Work, layout: ParallelLayout, machine: Machine) -> JobPlan:
    """Plan of a request with all weights on the device, whether it fits or not."""
    num_slices, take_turns = _sending(work, layout, machine)
    return JobPlan(num_slices=num_slices, take_turns=take_turns, decode_chunk=_decode_chunk(work, layout, machine))


def link_to_layer(work: Work, layout: ParallelLayout, machine: Machine) -> float:
    """Ratio of a layer's seconds on the link to the seconds that a rank computes in it."""
    network = work.spec.transformer
    sent = attention_elements(layout, 0, work.num_tokens, network.num_attention_heads, ahead=True)
    sent_bytes = sum(sent.values()) * network.attention_head_dim * machine.settings.itemsize
    return sent_bytes / machine.link.bytes_per_second / block_of(work, layout, 1, machine).seconds


def choose_slices(ratio: float, num_tokens: int, in_turns: bool) -> int:
    """Choose the slices of a rank's `num_tokens` tokens; a layer's data is on the link for `ratio` of its work's time.

    One where there is little to hide: every slice costs some messages, and reads the weights once more.
    """
    for least, num_slices in SLICES_IN_TURNS_FROM if in_turns else SLICES_FROM:
        if ratio >= least:
            return max(1, min(num_slices, num_tokens // LEAST_SLICE_TOKENS))
    return 1


def _sending(work: Work, layout: ParallelLayout, machine: Machine) -> tuple[int, bool]:
    """Decide (slices, whether two forwards alternate)."""
    asked = machine.settings.num_slices
    if layout.sp == 1:
        return asked or 1, False
    ratio, are_two = link_to_layer(work, layout, machine), work.num_forwards(layout) == 2
    num_slices = asked or choose_slices(ratio, work.num_tokens // layout.sp, are_two)
    return num_slices, are_two and (num_slices > 1 or ratio >= TURNS_FROM)


def _blocks_per_agreement(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> int:
    """Number of blocks between two agreements of the ranks whether to continue, counting both forwards that alternate.

    As many as take half a second, or one that takes longer; 0 where a step is predicted to take up to two seconds. A
    device that nobody knows is taken for a slow one. Where it is fast that costs next to nothing, for it is a single
    rank's: several have measured what a block takes.
    """
    slowest = SLOWEST_UNKNOWN if machine.stands_in else 1.0
    seconds = slowest * denoising(work, layout, machine, plan).seconds
    if seconds / work.request.num_inference_steps <= LONG_STEP_SECONDS:
        return 0
    passes = work.num_calls * (1 if plan.take_turns else work.num_forwards(layout))
    return max(1, int(AGREEMENT_SECONDS * passes * work.spec.transformer.num_layers / seconds))


def _decode_chunk(work: Work, layout: ParallelLayout, machine: Machine) -> int:
    """Latent frames decoded at a time."""
    _, _, rows, columns = work.latent_shape
    band, spare = split_sizes(rows, layout.num_ranks)[0], spare_bytes(work.spec, layout, machine)
    settings = machine.settings
    return work.spec.vae.decoder.portion(band, columns, settings.vae_itemsize, spare, settings.decode_chunk)
