"""Shelf: the host's copy of a model's weights, one for all ranks of a machine.

It is memory without a name that processes share (memfd): whoever starts the ranks hands its descriptor on, and with the
last process that has it the memory is gone, however that process ends. Which rank fills which part is a matter of locks
on the same descriptor, which the system takes back from a process that dies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ringlight.core.errors import OutOfMemory
from ringlight.core.plain import plain
from ringlight.core.report import GIB
from ringlight.residency.part import WeightPart
from ringlight.residency.pinned import PageLock

HEADER_BYTES = 2**16  # a byte for each part: whether it is filled
FILLED = b"\1"


class Shelf:
    """Room for parts on the host, in the order in which they are named: the same on all ranks of a machine."""

    def __init__(self, parts: Sequence[WeightPart], descriptor: int = -1) -> None:
        """Lay out the shelf. `parts` are all of the model, also those that are another rank's.

        `descriptor` is the memory's, which other ranks have too; without one it is this process's own. Raises
        OutOfMemory where the host has no room.
        """
        assert len(parts) <= HEADER_BYTES, "a byte for each"
        self._place: dict[str, tuple[int, int, int]] = {}
        offset = HEADER_BYTES
        for index, part in enumerate(parts):
            self._place[part.name] = (index, offset, part.num_bytes)
            offset += -(-part.num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.num_bytes = offset
        self._descriptor = os.memfd_create("ringlight weights") if descriptor < 0 else os.dup(descriptor)
        try:
            os.ftruncate(self._descriptor, offset)
            self._map = mmap.mmap(self._descriptor, offset)
        except OSError as error:
            raise no_room(offset, error) from None
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._lock: PageLock | None = None
        self.pinned_bytes = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes that the host has yet to allocate for all of it."""
        return self.num_bytes - 512 * os.fstat(self._descriptor).st_blocks  # of that size, whatever the file system's

    def is_filled(self, parts: Sequence[WeightPart]) -> bool:
        """Whether some process has filled these parts, which are neighbours."""
        first, last = (self._place[part.name][0] for part in (parts[0], parts[-1]))
        return bytes(self._map[first : last + 1]) == FILLED * (last + 1 - first)

    def holds(self, part: WeightPart) -> bool:
        """Whether a part has room here: always."""
        return True

    def flat(self, part: WeightPart) -> Tensor:
        """The bytes of a part."""
        _, offset, num_bytes = self._place[part.name]
        assert num_bytes == part.num_bytes, f"{part.name} is as large on all ranks"
        return self._bytes[offset : offset + num_bytes]

    def pin(self, device: torch.device, most_bytes: int) -> None:
        """Page-lock the parts that come first and are filled, as far as so many bytes go, for copies to a GPU."""
        end = 0
        for index, offset, num_bytes in self._place.values():
            if self._map[index : index + 1] != FILLED or offset + num_bytes > most_bytes:
                break
            end = offset + num_bytes
        if end:
            lock = PageLock(self._bytes[:end], device)
            self._lock, self.pinned_bytes = lock, end if lock.is_held else 0

    def bind(self, parts: Iterable[WeightPart]) -> None:
        """Bind networks to their weights here."""
        for part in parts:
            part.bind(self.flat(part))

    def fill_once(self, parts: Sequence[WeightPart], fill: Callable[[], None], wait: bool = True) -> bool:
        """Let `fill` write these parts, which are bound to this shelf, unless another process has.

        The one door for whoever writes weights. Where another process writes them at the moment it is waited for, or
        without `wait` not. Returns whether they are filled.
        """
        first, last = (self._place[part.name][0] for part in (parts[0], parts[-1]))
        with self._locked(first, last + 1 - first, wait) as is_mine:
            if not is_mine:
                return False
            if not self.is_filled(parts):
                self._allocate(parts)
                fill()
                self._map[first : last + 1] = FILLED * (last + 1 - first)
            return True

    def _allocate(self, parts: Sequence[WeightPart]) -> None:
        """Allocate memory for parts now: a page at a time takes half as long again. Raises OutOfMemory."""
        for part in parts:
            _, offset, num_bytes = self._place[part.name]
            try:
                os.posix_fallocate(self._descriptor, offset, num_bytes)
            except OSError as error:
                raise no_room(num_bytes, error) from None

    @contextmanager
    def _locked(self, start: int, length: int, wait: bool) -> Iterator[bool]:
        """Hold the lock of these header bytes; yields False if another process holds it and is not waited for."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, length, start)


def no_room(num_bytes: int, error: OSError) -> OutOfMemory:
    """Error if the system has no memory for so many bytes of the weights."""
    size = f"{plain(num_bytes / GIB, 3)} GiB"
    return OutOfMemory(f"the host has no room for a copy of the weights ({size}): {error.strerror}")
