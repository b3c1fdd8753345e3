"""Advice: whether a request fits into a device's memory, and what to change where it does not."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.core.request import VideoRequest
from ringlight.families.work import Work
from ringlight.planner.hardware import RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.memory import usable_bytes, within_budget
from ringlight.planner.prediction import Prediction, predict

MIB = 2**20
SMALL_BYTES = 2 * GIB  # below it tenths of GiB are too coarse


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Smallest change that makes a request fit: what is said to the user, and what is then predicted."""

    flags: str
    prediction: Prediction
    machine: Machine


def shortage(request: VideoRequest, machine: Machine, plan: Prediction) -> str | None:
    """Shortage of memory for a request, in words; None if it may fit.

    Of a card only tensors count, and half of what the driver is assumed to take: the allocator gives its slack back
    before it fails. A plan that merely is tight is no reason to refuse anything. A budget is kept with all slack.
    """
    card, memory = machine.hardware.card, plan.worst_memory
    most, needed = plan.usable_bytes + card.context_bytes - card.context_bytes // 2, memory.peak_allocated_bytes
    whose = card.name
    if plan.usable_bytes == machine.settings.memory_budget_bytes:
        most, needed, whose = plan.usable_bytes, memory.peak_bytes, "the memory budget"
    if needed <= most:
        return None
    return (
        f"{request.extent} needs {_in_gib(needed)} GiB on a rank of {plan.layout}, which has {_in_gib(most)} ({whose})"
    )


def remedy(work: Work, layout: ParallelLayout, machine: Machine) -> str | None:
    """Smallest change of flags with which a request is predicted to fit; None if there is none."""
    change = nearest_that_fits(work, layout, machine)
    if change is None:
        return None
    needed = change.prediction.worst_memory.peak_bytes
    has = within_budget(change.machine, machine.card.memory_bytes)
    return f"predicted to fit with {change.flags} ({_in_gib(needed)} of {_in_gib(has)} GiB)"


def smaller_video(work: Work, layout: ParallelLayout, machine: Machine) -> tuple[str, str] | None:
    """Field of a request to change, and its largest value that is predicted to fit; None if none is."""
    found = nearest_video_that_fits(work, layout, machine)
    return None if found is None else _difference(work.request, found.request)


def nearest_that_fits(work: Work, layout: ParallelLayout, machine: Machine) -> Change | None:
    """First of ever larger changes with which a request fits, else the largest video that fits with any of them.

    None if none does.

    In this order: another budget; the decoder a portion at a time; networks in bfloat16; more ranks, where there could
    be any. Of videos with equally many pixels the one that needs the least change. Raises nothing: whether the request
    fits as it is, is not asked.
    """
    heads = work.spec.transformer.num_attention_heads
    budgets = [*_budgets(work, layout, machine)]
    changes = [*budgets, *_changes(layout, heads, machine)]
    for budget, within, _ in budgets:
        changes += [(f"{budget} {flags}", other, there) for flags, other, there in _changes(layout, heads, within)]
    for flags, other, there in changes:
        prediction = predict(work, there, other)
        if prediction.fits:
            return Change(flags=flags, prediction=prediction, machine=other)
    best, most = None, 0
    for flags, other, there in [("", machine, layout), *changes]:
        video = nearest_video_that_fits(work, there, other)
        if video is not None and (pixels := _pixels(video.request)) > most:
            field, value = _difference(work.request, video.request)
            changed = f"{flags} --{field.replace('_', '-')} {value}".strip()
            best = Change(flags=changed, prediction=predict(video, there, other), machine=other)
            most = pixels
    return best


def _pixels(video: VideoRequest) -> int:
    """Pixels of all frames."""
    return video.width * video.height * video.num_frames


def nearest_video_that_fits(work: Work, layout: ParallelLayout, machine: Machine) -> Work | None:
    """Same request with as many frames as fit, or if only a picture would, of the largest size; None if none fits.

    With nothing else changed; sizes in 32nds of the one asked for.
    """
    for smaller in (_shorter_videos(work), _smaller_videos(work)):
        videos = [Work.of(work.spec, request) for request in smaller]
        count = bisect.bisect_left(videos, True, key=lambda video: not predict(video, layout, machine).fits)
        if count:  # they need ever more
            return videos[count - 1]
    return None


def _budgets(work: Work, layout: ParallelLayout, machine: Machine) -> Iterator[tuple[str, Machine, ParallelLayout]]:
    """Yield a budget that helps.

    If all weights lie on the device, it is all that the device has. If a budget is too small, it is the least of those
    that are not, as on a CPU, which needs the rest for weights that its ranks share. Workers with weights on the host
    and no budget have all there is.
    """

    def within(num_bytes: int) -> Machine:
        settings = msgspec.structs.replace(machine.settings, memory_budget_bytes=num_bytes)
        return msgspec.structs.replace(machine, settings=settings, residency="placed", abilities=None)

    num_bytes = usable_bytes(within(0))
    if not machine.settings.memory_budget_bytes and machine.residency != "resident":
        return
    if machine.settings.memory_budget_bytes or machine.card.is_cpu:
        least = predict(work, layout, within(1)).worst_memory.peak_bytes
        num_bytes = min(num_bytes, _rounded_up(least))
    if (said := _rounded_down(num_bytes)) > 0:
        yield f"--memory-budget {_said(said)}", within(said), layout


def _in_gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.{2 if num_bytes < SMALL_BYTES else 1}f}"


def _rounded_up(num_bytes: int) -> int:
    """Round up to a budget that is easily said: whole tenths of GiB, or of a small one whole MiB."""
    if num_bytes < SMALL_BYTES:
        return -(-num_bytes // MIB) * MIB
    return _tenths(-(-10 * num_bytes // GIB))


def _rounded_down(num_bytes: int) -> int:
    """Round down to a budget that is easily said, as `_rounded_up` does."""
    return num_bytes // MIB * MIB if num_bytes < SMALL_BYTES else _tenths(10 * num_bytes // GIB)


def _tenths(count: int) -> int:
    """Bytes of so many tenths of GiB."""
    return -(-count * GIB // 10)


def _said(num_bytes: int) -> str:
    """Text of a budget as a flag takes it, and no less than it."""
    return f"{num_bytes // MIB}MiB" if num_bytes < SMALL_BYTES else f"{num_bytes / GIB:.1f}GiB"


def _changes(layout: ParallelLayout, num_heads: int, machine: Machine) -> Iterator[tuple[str, Machine, ParallelLayout]]:
    """Changes of settings and layout from small to large, with the flags that make them."""

    change, settings = msgspec.structs.replace, machine.settings

    def with_settings(other: RunSettings) -> Machine:
        return change(machine, settings=other, abilities=None)  # what was measured is of these settings and ranks

    single = change(settings, decode_chunk=1) if settings.decode_chunk > 1 else settings
    if single != settings:
        yield "--decode-chunk 1", with_settings(single), layout
    dtypes = [("", single)]
    for field in ("vae_dtype", "dtype"):
        if getattr(settings, field) == "float32":
            flag = f"--{field.replace('_', '-')} bfloat16"
            dtypes += [(f"{flags} {flag}".strip(), change(other, **{field: "bfloat16"})) for flags, other in dtypes]
    for flags, other in dtypes[1:]:
        yield flags, with_settings(other), layout
    for flags, other in dtypes:
        for there in _wider(layout, num_heads, machine.most_ranks):
            yield f"--num-gpus {there.num_ranks} ({there.name}) {flags}".strip(), with_settings(other), there


def _shorter_videos(work: Work) -> list[VideoRequest]:
    """Candidate requests with fewer frames, shortest first."""
    request, step = work.request, work.spec.frame_multiple
    return [msgspec.structs.replace(request, num_frames=n) for n in range(1 + step, request.num_frames, step)]


def _smaller_videos(work: Work) -> list[VideoRequest]:
    """Candidate requests of smaller sizes of about the same shape, smallest first."""
    request, (high, wide) = work.request, work.spec.size_multiple
    sizes = dict.fromkeys(
        (max(wide, request.width * part // 32 // wide * wide), max(high, request.height * part // 32 // high * high))
        for part in range(1, 32)
    )
    return [msgspec.structs.replace(request, width=width, height=height) for width, height in sizes]


def _wider(layout: ParallelLayout, num_heads: int, max_ranks: int) -> Iterator[ParallelLayout]:
    """The layout on two, three, four ... times as many ranks, by Ulysses where there are heads for it."""
    for factor in range(2, max_ranks // layout.num_ranks + 1):
        if num_heads % (layout.ulysses * factor) == 0:
            yield msgspec.structs.replace(layout, ulysses=layout.ulysses * factor)
        else:
            yield msgspec.structs.replace(layout, ring=layout.ring * factor)


def _difference(request: VideoRequest, video: VideoRequest) -> tuple[str, str]:
    """The field in which a nearest video differs, and its value there."""
    if video.num_frames != request.num_frames:
        return "num_frames", f"{video.num_frames}"
    return "size", f"{video.width}x{video.height}"
