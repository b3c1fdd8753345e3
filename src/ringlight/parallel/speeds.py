"""How fast link and device are, from which the number of slices follows (core/portions)."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import torch

from ringlight.parallel.collectives import Transfers
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import Axis

PROBE_BYTES = (2**16, 2**20, 2**24)
LONG_PROBE_SECONDS = 0.02


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """What the slowest rank reaches: bytes a second to the next rank while as many come in, and operations a second."""

    link_bytes_per_second: float
    flops_per_second: float


def measure_link(world: Axis, control: Control, device: torch.device) -> float:
    """Bytes a second that every rank sends to the next while it receives as many. All ranks call it together.

    Larger messages follow smaller ones while those take too little time to tell.
    """
    before, after = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    rate = 0.0
    for num_bytes in PROBE_BYTES:
        sent, received = (torch.zeros(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))

        def exchange(sent: torch.Tensor = sent, received: torch.Tensor = received) -> None:
            Transfers({after: sent}, {before: received}, world, "ring").wait()

        exchange()  # the first message makes the connection
        control.agree(0)
        slowest = -least(-seconds_of(exchange, device), control)
        rate = num_bytes / slowest
        if slowest > LONG_PROBE_SECONDS:
            break
    return rate


def least(value: float, control: Control) -> float:
    """The smallest of all ranks' values, the same on every rank."""
    return min(msgspec.msgpack.decode(part, type=float) for part in control.gather(msgspec.msgpack.encode(value)))


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action, the device synchronised at both ends."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    action()
    return now() - start
