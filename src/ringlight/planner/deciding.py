"""Deciding how a job runs on its ranks: what it sends ahead, whether its forwards take turns, and what it decodes at a
time. Plans reckon with it, and workers do it."""

from __future__ import annotations

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.plan import JobPlan
from ringlight.core.portions import TURNS_FROM, choose_slices
from ringlight.families.traffic import attention_elements
from ringlight.families.work import Work
from ringlight.planner.denoising import block_of
from ringlight.planner.machine import Machine
from ringlight.planner.memory import spare_bytes


def job_plan(work: Work, layout: ParallelLayout, machine: Machine) -> JobPlan:
    """How a request runs on a layout: as the settings say, and where they leave it open as sizes and speeds do."""
    num_slices, take_turns = _sending(work, layout, machine)
    return JobPlan(num_slices=num_slices, take_turns=take_turns, decode_chunk=_decode_chunk(work, layout, machine))


def link_to_layer(work: Work, layout: ParallelLayout, machine: Machine) -> float:
    """How long a layer's data is on the link, in terms of the time that a rank computes in it."""
    network = work.spec.transformer
    sent = attention_elements(layout, 0, work.num_tokens, network.num_attention_heads, ahead=True)
    sent_bytes = sum(sent.values()) * network.attention_head_dim * machine.settings.itemsize
    return sent_bytes / machine.link.bytes_per_second / block_of(work, layout, 1, machine).seconds


def _sending(work: Work, layout: ParallelLayout, machine: Machine) -> tuple[int, bool]:
    """(slices, whether two forwards take turns)."""
    asked = machine.settings.num_slices
    if layout.sp == 1:
        return asked or 1, False
    ratio, are_two = link_to_layer(work, layout, machine), work.num_forwards(layout) == 2
    num_slices = asked or choose_slices(ratio, work.num_tokens // layout.sp, are_two)
    return num_slices, are_two and (num_slices > 1 or ratio >= TURNS_FROM)


def _decode_chunk(work: Work, layout: ParallelLayout, machine: Machine) -> int:
    """Latent frames decoded at a time."""
    _, _, rows, columns = work.latent_shape
    band, spare = split_sizes(rows, layout.num_ranks)[0], spare_bytes(work.spec, layout, machine)
    settings = machine.settings
    return work.spec.vae.decoder.portion(band, columns, settings.vae_itemsize, spare, settings.decode_chunk)
