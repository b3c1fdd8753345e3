"""JobPlan: how a job runs on its ranks, which the engine decides and a worker does; and what ranks measure for it."""

from __future__ import annotations

import msgspec

from ringlight.core.report import PredictedReport


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """What the slowest rank reaches: bytes a second to the next rank while as many come in, and operations a second."""

    link_bytes_per_second: float
    flops_per_second: float


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What ranks found of themselves when they were ready, the least of all of them.

    `spare_bytes` is all memory of a GPU beside the weights, whoever has it at the moment; nothing on a CPU. `speeds`
    are those of several ranks, None for a single one.
    """

    spare_bytes: int
    speeds: Speeds | None = None


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a job runs: slices of a rank's tokens that a forward sends ahead, whether two forwards take turns, and latent
    frames that are decoded at a time. For its report also what is predicted of it, and why its layout is this one."""

    num_slices: int = 1
    take_turns: bool = False
    decode_chunk: int = 1
    predicted: PredictedReport | None = None
    layout_reason: str = ""


SIMPLEST = JobPlan()  # all at once, one latent frame at a time
