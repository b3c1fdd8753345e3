"""Advice: what to change where a request did not fit into a device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.planner.catalogue import card, link
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.prediction import nearest_that_fits

MOST_RANKS = 8  # that advice goes up to
ANY_CARD, ANY_LINK = "h100-sxm", "pcie4"  # memory does not depend on how fast they are


def advice(
    spec: ModelSpec, request: VideoRequest, layout: ParallelLayout, environment: Mapping[str, Any], decode_chunk: int
) -> str | None:
    """The least change of flags with which a request should fit; None where there is none, or nothing is known.

    `environment` is what workers tell of their device: of it `memory_bytes`, `dtype` and `vae_dtype`.
    """
    memory_bytes = environment.get("memory_bytes")
    if not isinstance(memory_bytes, int):
        return None
    is_cpu = environment.get("device_type") == "cpu"
    if is_cpu:  # whose ranks share its memory: more of them have no more of it
        memory_bytes //= layout.num_ranks
    kind = card("cpu-core" if is_cpu else ANY_CARD)
    hardware = Hardware(card=msgspec.structs.replace(kind, memory_bytes=memory_bytes), link=link(ANY_LINK))
    dtypes = {name: environment[name] for name in ("dtype", "vae_dtype")}
    settings = msgspec.convert({**dtypes, "decode_chunk": decode_chunk}, RunSettings)
    change = nearest_that_fits(
        spec, request, layout, hardware, settings, max_ranks=layout.num_ranks if is_cpu else MOST_RANKS
    )
    if change is None:
        return None
    gib = change.prediction.worst_memory.peak_bytes / 2**30
    return f"predicted to fit with {change.flags} ({gib:.1f} of {memory_bytes / 2**30:.1f} GiB)"
