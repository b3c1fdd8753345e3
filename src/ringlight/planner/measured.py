"""Machines as their ranks have measured them, in the place of what the catalogue assumes."""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.families.work import Work
from ringlight.planner.denoising import block_of
from ringlight.planner.machine import Machine


def as_measured(work: Work, layout: ParallelLayout, machine: Machine) -> Machine:
    """A machine with the link that its ranks have measured, and as fast as they were in a block of the network.

    As it is where they have measured nothing, as a single rank has not, or where this is done: what is answered has no
    speeds left to take in. Seconds of a calibration stay: they are of whole videos.
    """
    abilities = machine.abilities
    if abilities is None or (speeds := abilities.speeds) is None:
        return machine
    link = msgspec.structs.replace(machine.link, bytes_per_second=speeds.link_bytes_per_second)
    pace = 1.0
    if not machine.hardware.correction.by_stage:
        network = work.spec.transformer
        flops = network.forward_flops(work.num_tokens) / network.num_layers / layout.sp
        pace = flops / speeds.flops_per_second / block_of(work, layout, 1, machine).seconds
    return msgspec.structs.replace(
        machine,
        hardware=msgspec.structs.replace(machine.hardware, link=link),
        pace=pace,
        stands_in=False,
        abilities=msgspec.structs.replace(abilities, speeds=None),
    )
