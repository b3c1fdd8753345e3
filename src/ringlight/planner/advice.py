"""Advice: whether a request fits into a device's memory, and what to change where it does not."""

from __future__ import annotations

from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.planner.choosing import Machine
from ringlight.planner.prediction import Prediction, nearest_that_fits, nearest_video_that_fits


def shortage(request: VideoRequest, machine: Machine, plan: Prediction) -> str | None:
    """What a request lacks, in words; None where it may fit.

    Only tensors count, and half of what the driver is assumed to take: the allocator gives its slack back before it
    fails. A plan that merely is tight is no reason to refuse anything.
    """
    card, needed = machine.hardware.card, plan.worst_memory.peak_allocated_bytes
    most = card.memory_bytes - card.context_bytes // 2
    if needed <= most:
        return None
    return (
        f"{request.width}x{request.height} with {request.num_frames} frames needs {needed / GIB:.1f} GiB on a rank of "
        f"{plan.layout}, which has {most / GIB:.1f} ({card.name})"
    )


def remedy(spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, machine: Machine) -> str | None:
    """The least change of flags with which a request is predicted to fit; None where there is none."""
    hardware, settings = machine.hardware, machine.settings
    change = nearest_that_fits(spec, request, layout, hardware, settings, max(layout.num_ranks, machine.most_ranks))
    if change is None:
        return None
    needed, has = change.prediction.worst_memory.peak_bytes / GIB, hardware.card.memory_bytes / GIB
    return f"predicted to fit with {change.flags} ({needed:.1f} of {has:.1f} GiB)"


def smaller_video(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, machine: Machine
) -> tuple[str, str] | None:
    """The field of a request to change, and its largest value that is predicted to fit; None where none is."""
    found = nearest_video_that_fits(spec, request, layout, machine.hardware, machine.settings)
    if found is None:
        return None
    if found.num_frames != request.num_frames:
        return "num_frames", f"{found.num_frames}"
    return "size", f"{found.width}x{found.height}"
