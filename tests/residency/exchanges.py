"""Exchanges without a GPU, whose host is any memory: one for each extreme of what an exchange promises."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ringlight.residency.exchange import Arrival, Copies, Moved


class AtOnce:
    """Copies as early as an exchange may: when it is asked to."""

    def __init__(self) -> None:
        self.rooms: list[int] = []  # bytes of each room that was asked for
        self.brought = self.taken = 0  # elements

    def host_room(self, num_bytes: int) -> Tensor:
        self.rooms.append(num_bytes)
        return torch.full((num_bytes,), 0xFF, dtype=torch.uint8)  # as float32 NaN: what was never taken out shows

    def bring(self, copies: Copies) -> Arrival:
        for there, here in copies:
            there.copy_(here)
            self.brought += here.numel()
        return None

    def take(self, copies: Copies) -> None:
        for there, here in copies:
            there.copy_(here)
            self.taken += here.numel()

    def wait(self, arrival: Arrival) -> None: ...

    def settle(self) -> None: ...

    def moved(self) -> Moved:
        return Moved(num_bytes=4 * self.brought, wait_seconds=0.25)


class Late(AtOnce):
    """Copies as late as an exchange may: what is brought when it is waited for, behind what was taken out before, and
    what is taken out when something that was brought after it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[tuple[int, str, list[tuple[Tensor, Tensor]]]] = []
        self._asked = 0

    def bring(self, copies: Copies) -> Arrival:
        return self._later("bring", copies)

    def take(self, copies: Copies) -> None:
        self._later("take", copies)

    def wait(self, arrival: Arrival) -> None:
        assert isinstance(arrival, int)
        for kind, copies in self._due(arrival):
            (super().bring if kind == "bring" else super().take)(copies)

    def settle(self) -> None:
        self.wait(self._asked)

    def _later(self, kind: str, copies: Copies) -> int:
        self._asked += 1
        self._pending.append((self._asked, kind, list(copies)))
        return self._asked

    def _due(self, arrival: int) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
        while self._pending and self._pending[0][0] <= arrival:
            _, kind, copies = self._pending.pop(0)
            yield kind, copies
