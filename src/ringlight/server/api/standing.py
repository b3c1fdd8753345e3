"""Standing: how a server is, in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ringlight.core.plain import plain
from ringlight.engine.runner import SERVING, ReplicaState
from ringlight.server.api.parts import Parts

Status = Literal["ready", "asleep", "waking", "starting", "draining", "failed"]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """State of a server at this moment.

    `message` says what there is to wait for, empty if there is nothing; `reasons` of each replica why it is not ready.
    """

    status: Status
    message: str
    num_ready: int
    replicas: Sequence[ReplicaState]
    reasons: Sequence[str]


def standing_of(parts: Parts) -> Standing:
    """Determine the state of a server."""
    replicas = parts.videos.engine.replicas
    reasons = [parts.videos.tell(_reason(replica)) for replica in replicas]
    num_ready = sum(replica.status in SERVING for replica in replicas)
    status, message = _said(parts, num_ready, replicas, reasons)
    return Standing(status=status, message=message, num_ready=num_ready, replicas=replicas, reasons=reasons)


def _said(parts: Parts, num_ready: int, replicas: Sequence[ReplicaState], reasons: Sequence[str]) -> tuple[Status, str]:
    engine = parts.videos.engine
    told = "; ".join(f"{each.name}: {reason}" for each, reason in zip(replicas, reasons, strict=True) if reason)
    because = f": {told}" if told else ""
    if parts.videos.is_draining:
        return "draining", "the server is stopping"
    if num_ready:
        lacks = num_ready < engine.num_wanted
        return "ready", f"{num_ready} of {engine.num_wanted} replicas are ready{because}" if lacks else ""
    takes = "" if engine.start_seconds is None else f", which takes about {plain(round(engine.start_seconds))} s"
    if not replicas:
        return "asleep", f"asleep, as nothing is to be made: the next video waits until a replica has started{takes}"
    if all(replica.status == "failed" for replica in replicas):
        return "failed", f"no replica can start{because}"
    if not engine.size.least and all(replica.status == "starting" for replica in replicas):
        return "waking", f"waking up: videos wait until a replica has started{takes}{because}"
    return "starting", f"no replica is ready yet{because}"


def _reason(replica: ReplicaState) -> str:
    """Reason why a replica is not ready: what it waits for, and why the start before this one failed."""
    awaited = "" if replica.awaited is None else str(replica.awaited)
    problem = f"tried again after: {replica.problem}" if replica.status == "lost" else replica.problem
    return "; ".join(filter(None, (awaited, problem)))
