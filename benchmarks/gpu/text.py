"""The text encoder over ranks: bytes that each of them holds, and seconds of giving them random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec
import torch

from gpu.clock import read_peak, show_seconds, start_peak, timed
from gpu.report import Row
from gpu.scale import GIB, MAX_TEXT_ROWS, Scale
from gpu.section import release_memory
from gpu.transformer import DTYPE
from ringlight.core.portions import split_runs
from ringlight.families.wan.networks.text_encoder import TextEncoder
from ringlight.families.wan.networks.umt5 import Umt5Config
from ringlight.models.loading import fill_random
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import Axis

RANKS = (2, 4, 8)


def compare(scale: Scale) -> Iterator[Row]:
    """What every rank of some numbers of them holds; then the first of two ranks beside the whole, on the device."""
    config = msgspec.convert(scale.text_encoder, Umt5Config)
    sizes = _bytes_of_parts(TextEncoder(config, None, MAX_TEXT_ROWS))
    for num_ranks in RANKS:
        held = [sum(sizes[part] for part in run) for run in split_runs(sizes, num_ranks)]
        told = ", ".join(f"{num_bytes / GIB:.2f}" for num_bytes in held)
        measured = f"{told} GiB by rank; the most is {max(held) / sum(sizes):.1%} of {sum(sizes) / GIB:.2f} GiB"
        yield Row(f"text encoder over {num_ranks} ranks, bfloat16", measured, numbers={"held_bytes": held})
    for ranks in ((0, 1), (0,)):
        yield _load(config, Axis(ranks, 0, Link()), scale, sizes)
        release_memory()


def _bytes_of_parts(encoder: TextEncoder) -> list[int]:
    """Bytes of the token table and of each layer, the final norm's with the last one."""
    return [DTYPE.itemsize * size for size in encoder.network.config.layers.parts]


def _load(config: Umt5Config, axis: Axis, scale: Scale, sizes: list[int]) -> Row:
    """Seconds of all that `--load-format dummy` does for the text encoder, from its JSON on."""
    name = "whole" if axis.size == 1 else f"the part of rank 0 of {axis.size}"
    label = f"text encoder, {name}, loaded with random weights, bfloat16"
    held = sum(sizes[part] for part in split_runs(sizes, axis.size)[0])
    needed = held + 2 * (4 // DTYPE.itemsize) * max(sizes)  # noise of one tensor in float32, twice
    if scale.device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(scale.device)[0]):
        return Row(label, f"needs {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free", verdict="no result")
    start_peak(scale.device)
    seconds = timed(partial(_fill, config, axis, scale.device), scale.device)
    measured = f"{show_seconds(seconds)}; {held / GIB:.2f} GiB of weights, {read_peak(scale.device)}"
    return Row(label, measured, numbers={"seconds": seconds, "held_bytes": held})


def _fill(config: Umt5Config, axis: Axis, device: torch.device) -> None:
    encoder = TextEncoder(config, None, MAX_TEXT_ROWS, axis)
    encoder.prepare(device, DTYPE)
    fill_random(encoder, seed=0)
