"""Wire: a link of a chosen rate to a rank that is not there, on one device.

What is sent comes back as what the other rank sent. On CUDA a second stream holds each message up: it copies bytes to
pinned host memory and back, as many as take the time that the link would, and hands the message over after them. On a
CPU a message is handed over at once, and waiting for it is sleeping until the link would have brought it. Messages go
one after another, and both directions of the link are busy at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol
from unittest.mock import patch

import torch
from torch import Tensor

from ringlight.parallel import ahead, attention
from ringlight.parallel.link import Kind
from ringlight.parallel.mesh import Axis

CHUNK_BYTES = 8 * 2**20
CALIBRATION_CHUNKS = 8

Message = list[tuple[Tensor, Tensor]]  # what is sent, and where what is received belongs
Wait = Callable[[], None]


class Wire(Protocol):
    """Carries messages at `bytes_per_second`; None: at once."""

    bytes_per_second: float | None

    def carry(self, message: Message) -> Wait:
        """Start a message; what is returned waits for it, on CUDA in the current stream."""
        ...

    def take_rate(self) -> tuple[int, float]:
        """(bytes carried, seconds that the link was busy with them) since it was last asked."""
        ...


class CudaWire:
    """Copies on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        """Measure how fast copies to pinned host memory and back are."""
        self.bytes_per_second: float | None = None
        self._stream = torch.cuda.Stream(device)
        self._there = torch.empty(CHUNK_BYTES, dtype=torch.uint8, device=device)
        self._host = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True)
        self._carried: list[tuple[int, torch.cuda.Event, torch.cuda.Event]] = []
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._copy_rate = self._measure_copies()

    def carry(self, message: Message) -> Wait:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._stream.wait_stream(torch.cuda.current_stream())  # until the message exists, and its place is free
        num_bytes = sum(sent.nbytes for sent, _ in message)
        with torch.cuda.stream(self._stream):
            began.record()
            if self.bytes_per_second is not None:
                self._copy(round(num_bytes / self.bytes_per_second * self._copy_rate))
            for sent, received in message:
                received.copy_(sent, non_blocking=True)
            ended.record()
        self._carried.append((num_bytes, began, ended))
        kept = [message]  # neither end may be freed, and given to another tensor, before the stream that waits has

        def wait() -> None:
            torch.cuda.current_stream().wait_event(ended)
            kept.clear()

        return wait

    def take_rate(self) -> tuple[int, float]:
        carried, self._carried = self._carried, []
        self._stream.synchronize()
        seconds = sum(began.elapsed_time(ended) for _, began, ended in carried) / 1000
        return sum(num_bytes for num_bytes, _, _ in carried), seconds

    def _copy(self, num_bytes: int) -> None:
        """So many bytes to the host and back, in the current stream."""
        for start in range(0, num_bytes, CHUNK_BYTES):
            chunk = slice(0, min(CHUNK_BYTES, num_bytes - start))
            self._host[chunk].copy_(self._there[chunk], non_blocking=True)
            self._there[chunk].copy_(self._host[chunk], non_blocking=True)

    def _measure_copies(self) -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._stream):
            self._copy(CHUNK_BYTES)  # the first touch of the host's pages
            began.record()
            self._copy(CALIBRATION_CHUNKS * CHUNK_BYTES)
            ended.record()
        ended.synchronize()
        seconds: float = began.elapsed_time(ended) / 1000
        return CALIBRATION_CHUNKS * CHUNK_BYTES / seconds


class HostWire:
    """A clock."""

    def __init__(self) -> None:
        self.bytes_per_second: float | None = None
        self._free_at = 0.0
        self._num_bytes, self._seconds = 0, 0.0

    def carry(self, message: Message) -> Wait:
        num_bytes = sum(sent.nbytes for sent, _ in message)
        for sent, received in message:
            received.copy_(sent)
        seconds = num_bytes / self.bytes_per_second if self.bytes_per_second is not None else 0.0
        there_at = self._free_at = max(self._free_at, time.perf_counter()) + seconds
        self._num_bytes += num_bytes
        self._seconds += seconds
        return lambda: time.sleep(max(0.0, there_at - time.perf_counter()))

    def take_rate(self) -> tuple[int, float]:
        taken = self._num_bytes, self._seconds
        self._num_bytes, self._seconds = 0, 0.0
        return taken


def make_wire(device: torch.device) -> Wire:
    return CudaWire(device) if device.type == "cuda" else HostWire()


@contextmanager
def in_place_of_transfers(wire: Wire, at_once: bool = False) -> Iterator[None]:
    """Attention over ranks sends through `wire` within; with `at_once` it waits where it starts to send.

    For two ranks with equal parts: what is sent to a rank has the shape of what comes from it.
    """

    class Carried:
        """What `Transfers` is, by way of the wire."""

        def __init__(self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], axis: Axis, kind: Kind) -> None:
            message = [(sends[peer], received) for peer, received in receives.items()]
            self._wait: Wait | None = wire.carry(message) if message else None
            if at_once:
                self.wait()

        def wait(self) -> None:
            wait, self._wait = self._wait, None
            if wait is not None:
                wait()

    with patch.object(ahead, "Transfers", Carried), patch.object(attention, "Transfers", Carried):
        yield
