"""Exchange: copies between a device and its host while the device computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ringlight.residency.pinned import PinnedMemory
from ringlight.residency.waits import StreamWait

Copies = Iterable[tuple[Tensor, Tensor]]  # (to, from), each contiguous, of one shape and dtype
Arrival = object  # of what is brought: for `wait`


class Moved(NamedTuple):
    """Bytes that came to a device, and seconds that it waited for them."""

    num_bytes: int = 0
    wait_seconds: float = 0.0


class Exchange(Protocol):
    """Copies of tensors from the host to the device and back, in an order that its calls say in full.

    `bring` begins behind all that has been asked of the device so far, and behind all that was taken. `take` begins
    behind all that has been asked of the device so far. The device itself waits for neither unless it is told to.
    """

    def host_room(self, num_bytes: int) -> Tensor:
        """Memory of the host for these copies, (num_bytes,) uint8, uninitialised.

        It replaces what was given before, which nobody may use any more.
        """

    def bring(self, copies: Copies) -> Arrival:
        """Begin to copy to the device. Without copies it still marks a place in the order."""

    def take(self, copies: Copies) -> None:
        """Begin to copy to the host."""

    def wait(self, arrival: Arrival) -> None:
        """Order the device's further work after this arrival."""

    def settle(self) -> None:
        """Order the device's further work after all copies so far, so that their memory may be used again."""

    def moved(self) -> Moved:
        """Bytes that came since the last call, and waits for them. Waits for the device."""


class CudaExchange:
    """An exchange of a GPU: a stream for either direction, and page-locked memory, which stays until more is asked.

    At most `most_pinned_bytes` are page-locked: what is more is pageable, and copied slowly.
    """

    def __init__(self, device: torch.device, most_pinned_bytes: int) -> None:
        self._device = device
        self._most_pinned_bytes = most_pinned_bytes
        self._in, self._out = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._memory: PinnedMemory | None = None
        self._num_bytes = 0
        self._waits: list[StreamWait] = []

    def host_room(self, num_bytes: int) -> Tensor:
        """Memory of the host: the earlier one if it is large enough, because page-locking takes long."""
        if self._memory is None or len(self._memory.bytes) < num_bytes:
            self.release()
            self._memory = PinnedMemory(num_bytes, self._device, self._most_pinned_bytes)
        return self._memory.bytes[:num_bytes]

    def release(self) -> None:
        """Give the host's memory back."""
        if self._memory is not None:
            self._in.synchronize()
            self._out.synchronize()
            self._memory.close()
            self._memory = None

    def bring(self, copies: Copies) -> Arrival:
        """Copy on the stream inwards."""
        self._in.wait_stream(torch.cuda.current_stream(self._device))
        self._in.wait_stream(self._out)
        self._num_bytes += self._copy(copies, self._in)
        return self._in.record_event()

    def take(self, copies: Copies) -> None:
        """Copy on the stream outwards."""
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        self._copy(copies, self._out)

    def wait(self, arrival: Arrival) -> None:
        """Make the current stream wait for an event."""
        assert isinstance(arrival, torch.cuda.Event)
        self._waits.append(StreamWait.begin(torch.cuda.current_stream(self._device), arrival))

    def settle(self) -> None:
        """Make the current stream wait for both others."""
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._in)
        now.wait_stream(self._out)

    def moved(self) -> Moved:
        """Bytes asked for and waits of the current stream since the last call."""
        found = Moved(self._num_bytes, sum(wait.seconds for wait in self._waits))
        self._num_bytes, self._waits = 0, []
        return found

    def _copy(self, copies: Copies, stream: torch.cuda.Stream) -> int:
        """Begin to copy; returns how many bytes."""
        num_bytes = 0
        with torch.cuda.stream(stream):
            for there, here in copies:
                there.copy_(here, non_blocking=True)
                num_bytes += here.nbytes
        return num_bytes
