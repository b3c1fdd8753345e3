"""Lane: what brings bytes from the host to a device, beside what the device computes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Lane(Protocol):
    """Copies from the host to a device, one after another in the order in which they are asked for.

    A moment is one in the device's computation. What `bring` answers with is waited for once, before what it has
    brought is computed with.
    """

    def room(self, num_bytes: int) -> Tensor:
        """Bytes on the device."""

    def now(self) -> Any:
        """This moment: when all that was computed so far is over."""

    def bring(self, there: Tensor, here: Tensor, after: Any) -> Any:
        """Begin to copy bytes `here` of the host to the device, after a moment."""

    def wait(self, brought: Any) -> Any:
        """Let the computation wait for what was brought. Returns what `seconds` tells the length of."""

    def settle(self) -> None:
        """Let the computation wait for all that was begun."""

    def seconds(self, wait: Any) -> float:
        """How long the computation has waited, once it has gone on."""


class CudaLane:
    """A stream of copies. On the host nothing waits; seconds are taken from events on the stream that does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def room(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def bring(self, there: Tensor, here: Tensor, after: torch.cuda.Event) -> torch.cuda.Event:
        self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            there.copy_(here, non_blocking=True)
        brought = torch.cuda.Event()
        brought.record(self._stream)
        return brought

    def wait(self, brought: torch.cuda.Event) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self._device)
        began.record(stream)
        stream.wait_event(brought)
        ended.record(stream)
        return began, ended

    def settle(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def seconds(self, wait: tuple[torch.cuda.Event, torch.cuda.Event]) -> float:
        began, ended = wait
        ended.synchronize()
        milliseconds: float = began.elapsed_time(ended)
        return milliseconds / 1000
