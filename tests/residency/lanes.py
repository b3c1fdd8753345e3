"""A lane on a CPU whose copies come late, as a device's may, so that nobody is right by chance."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

JUNK = 0x7F  # of every byte of new room, and of what is still to come: no finite float


class LateLane:
    """Copies that are made when they are waited for and not before; until then there is junk in their place.

    `peak_bytes`: the most that was alive of the room that was asked for.
    """

    def __init__(self) -> None:
        self.live_bytes = self.peak_bytes = 0

    def room(self, num_bytes: int) -> Tensor:
        room = torch.full((num_bytes,), JUNK, dtype=torch.uint8)
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(room.untyped_storage(), self._free, num_bytes)
        return room

    def now(self) -> int:
        return 0

    def bring(self, there: Tensor, here: Tensor, after: int) -> Callable[[], None]:
        there.fill_(JUNK)  # what was there is no longer needed, or it shows

        def copy() -> None:
            there.copy_(here)

        return copy

    def wait(self, brought: Callable[[], None]) -> SimpleNamespace:
        brought()
        return SimpleNamespace(seconds=0.5)

    def settle(self) -> None: ...

    def _free(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes
