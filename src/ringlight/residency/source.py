"""WeightSource: where a part's bytes come from: a host's copy, or for want of room there the checkpoint's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from ringlight.residency.part import WeightPart
from ringlight.residency.shelf import Shelf


class WeightSource(Protocol):
    """Holder of all parts of a model on the host."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the host's copy."""

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the copy that are page-locked."""

    def holds(self, part: WeightPart) -> bool:
        """Whether a part lies in memory, where a CPU can compute with it."""

    def flat(self, part: WeightPart) -> Tensor:
        """The bytes of a part, to be copied or computed with at once."""

    def bind(self, parts: Iterable[WeightPart]) -> None:
        """Bind networks to what lies in memory, and to nothing for all else."""


class PartlyInFiles:
    """A shelf without room for some parts, which are read whenever they are needed: slow, and within any memory."""

    def __init__(self, shelf: Shelf, readers: Mapping[str, Callable[[WeightPart], None]]) -> None:
        """Keep the shelf. `readers`, by the names of the parts in files, fill what the part is bound to."""
        self._shelf, self._readers = shelf, readers

    @property
    def num_bytes(self) -> int:
        return self._shelf.num_bytes

    @property
    def pinned_bytes(self) -> int:
        return self._shelf.pinned_bytes

    def holds(self, part: WeightPart) -> bool:
        return part.name not in self._readers

    def flat(self, part: WeightPart) -> Tensor:
        if self.holds(part):
            return self._shelf.flat(part)
        room = torch.empty(part.num_bytes, dtype=torch.uint8)
        part.bind(room)
        self._readers[part.name](part)
        return room

    def bind(self, parts: Iterable[WeightPart]) -> None:
        for part in parts:
            if self.holds(part):
                self._shelf.bind([part])
            else:
                part.unbind()
