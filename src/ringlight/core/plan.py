"""JobPlan: how a job runs on its ranks, which the engine decides and a worker does."""

from __future__ import annotations

import msgspec


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a job runs: slices of a rank's tokens that a forward sends ahead, whether two forwards take turns, and latent
    frames that are decoded at a time."""

    num_slices: int = 1
    take_turns: bool = False
    decode_chunk: int = 1
