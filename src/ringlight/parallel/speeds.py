"""Speeds of link and device, measured by all ranks together (core/plan)."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import msgspec
import torch

from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import Axis

# Bytes of a message, and the seconds from which it is long enough for its rate to tell; else a larger one follows.
PROBES = ((2**16, 0.02), (2**20, 0.02), (2**24, 1e-3), (2**26, 1e-3), (2**28, 0.0))
NUM_SAMPLES = 5
ENOUGH_SECONDS = 0.1  # of samples of work that no other rank takes part in


@collective
def measure_link(world: Axis, control: Control, device: torch.device) -> float:
    """Measure the bytes a second from every rank to the next while it receives as many. All ranks call it together."""
    before, after = (world.rank - 1) % world.size, (world.rank + 1) % world.size

    def slowest_seconds(num_bytes: int) -> float:
        """Median of some exchanges on the rank where it is the longest."""
        sent = torch.randint(2**62, (num_bytes // 8,), device=device).view(torch.uint8)
        received = torch.empty_like(sent)

        def exchange() -> None:
            Transfers({after: sent}, {before: received}, world, "ring").wait()

        exchange()  # the first message makes the connection
        control.agree(0)
        return -least(-median(seconds_of(exchange, device) for _ in range(NUM_SAMPLES)), control)

    return rate_of(slowest_seconds)


def rate_of(seconds: Callable[[int], float]) -> float:
    """Bytes a second of a link, from the `seconds` that it takes for so many bytes of a long enough message."""
    rate = 0.0
    for num_bytes, long_enough in PROBES:
        taken = seconds(num_bytes)
        rate = num_bytes / taken
        if taken >= long_enough:
            break
    return rate


@collective
def least(value: float, control: Control) -> float:
    """The smallest of all ranks' values, the same on every rank."""
    return min(msgspec.msgpack.decode(part, type=float) for part in control.gather(msgspec.msgpack.encode(value)))


def median_seconds(action: Callable[[], object], device: torch.device) -> float:
    """Median seconds of some samples of an action, fewer if they take long."""
    samples = [seconds_of(action, device)]
    while len(samples) < NUM_SAMPLES and sum(samples) < ENOUGH_SECONDS:
        samples.append(seconds_of(action, device))
    return median(samples)


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action, the device synchronised at both ends."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    action()
    return now() - start
