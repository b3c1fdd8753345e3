"""HostMemory: memory of this machine in which the ranks of all replicas keep one copy of the weights."""

from __future__ import annotations

import io
import os


class HostMemory:
    """Anonymous memory, empty at first, shared by processes that are given its descriptor.

    It is there until `close` and the end of all that have it: a worker that starts anew finds what others have loaded,
    and nothing is left on the machine when the last process has ended, however it ended.
    """

    def __init__(self, num_ranks: int = 1) -> None:
        """Create the memory. `num_ranks` of this machine share it, those of all replicas."""
        self.num_ranks = num_ranks
        self._file = io.FileIO(os.memfd_create("ringlight weights"), "r+")

    @property
    def descriptor(self) -> int:
        """File descriptor to pass on to processes."""
        return self._file.fileno()

    def close(self) -> None:
        """Give it up."""
        self._file.close()
