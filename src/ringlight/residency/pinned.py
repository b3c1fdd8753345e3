"""PinnedMemory: the host's memory that a GPU copies to and from by itself."""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ringlight.core.plain import plain

PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all contexts, whichever thread registers it

logger = logging.getLogger(__name__)


class PageLock:
    """Page-lock of host memory in a single registration of exactly its size, until it is closed.

    torch's own pinned memory comes in powers of two, so that up to half of it would be lost. Where registering fails
    the memory stays pageable: copies are right and slow, and the log says why (`is_held`).
    """

    def __init__(self, memory: Tensor, device: torch.device) -> None:
        """Lock bytes, (n,) uint8, which must stay where they are, for copies of this device."""
        address, num_bytes = memory.data_ptr(), len(memory)
        problem = _on_a_thread(lambda: _register(address, num_bytes, device))
        self.is_held = not problem
        if problem:
            size = plain(num_bytes / 2**30, 3)
            logger.warning(
                "%s GiB of the host's memory could not be page-locked (%s): copies from and to it are slow. Raise the "
                "limit of locked memory (ulimit -l), or give the machine or container more memory.",
                size,
                problem,
            )
            return
        self._unpin = weakref.finalize(self, _on_a_thread, lambda: _unregister(address))
        self._unpin.atexit = False  # the end of the process is the end of its registrations

    def close(self) -> None:
        """Unlock the memory. Nothing may be copying."""
        if self.is_held:
            self._unpin()


class PinnedMemory:
    """Host memory of so many bytes, page-locked if that is possible and they are no more than `most_bytes`."""

    def __init__(self, num_bytes: int, device: torch.device, most_bytes: int) -> None:
        """Allocate `bytes`, (num_bytes,) uint8, uninitialised."""
        self.bytes = torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=torch.uint8)
        self._lock: PageLock | None = None
        if num_bytes <= most_bytes:
            self._lock = PageLock(self.bytes, device)
        else:
            logger.warning(
                "%s GiB of the host's memory are not page-locked, for that would leave too little of it to others: "
                "copies from and to it are slow. Give the machine or container more memory, or ranks a larger budget.",
                plain(num_bytes / 2**30, 3),
            )

    @property
    def is_pinned(self) -> bool:
        """Whether the memory is page-locked."""
        return self._lock is not None and self._lock.is_held

    def close(self) -> None:
        """Give the page-lock back. Nothing may be copying; the memory itself lives as long as its tensors."""
        if self._lock is not None:
            self._lock.close()


def _on_a_thread(call: Callable[[], str]) -> str:
    """Run a CUDA call on a thread of its own and return its error.

    An error that it leaves behind there is not found by the next kernel that is launched, and ends with the thread.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def _register(address: int, num_bytes: int, device: torch.device) -> str:
    """Page-lock memory; returns the error, empty if there is none."""
    torch.cuda.set_device(device)
    return _said(torch.cuda.cudart().cudaHostRegister(address, num_bytes, PORTABLE))


def _unregister(address: int) -> str:
    return _said(torch.cuda.cudart().cudaHostUnregister(address))


def _said(code: object) -> str:
    """Text of an error; empty for success."""
    cudart = torch.cuda.cudart()
    return "" if code == cudart.cudaError.success else str(cudart.cudaGetErrorString(code))
