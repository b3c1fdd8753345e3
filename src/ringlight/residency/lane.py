"""Lane: what brings bytes from the host to a device, beside what the device computes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ringlight.residency.waits import StreamWait


class Wait(Protocol):
    """A wait of the computation."""

    @property
    def seconds(self) -> float:
        """Seconds of the wait, once the computation has continued."""


class Lane(Protocol):
    """Copies from the host to a device, one after another in the order in which they are asked for.

    A moment is one in the device's computation. What `bring` answers with is waited for once, before what it has
    brought is computed with.
    """

    def room(self, num_bytes: int) -> Tensor:
        """Bytes on the device."""

    def now(self) -> Any:
        """Mark of this moment: when all that was computed so far is over."""

    def bring(self, there: Tensor, here: Tensor, after: Any) -> Any:
        """Begin to copy bytes `here` of the host to the device, after a mark."""

    def wait(self, brought: Any) -> Wait:
        """Make the computation wait for what was brought."""

    def settle(self) -> None:
        """Make the computation wait for all that was begun."""


class CudaLane:
    """A stream of copies."""

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

    def wait(self, brought: torch.cuda.Event) -> StreamWait:
        return StreamWait.begin(torch.cuda.current_stream(self._device), brought)

    def settle(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
