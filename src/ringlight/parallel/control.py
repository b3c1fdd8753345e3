"""Control: what ranks decide and tell together, apart from the data they compute with."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from ringlight.parallel.collective import collective
from ringlight.parallel.link import LinkLost

LENGTH_BYTES = 8
LETTER_BYTES = 4096  # that are told at once: an order with its prompt; what is longer takes two rounds


class Control:
    """Small messages over a gloo group of their own. Every rank calls the same method at the same point."""

    def __init__(self, group: dist.ProcessGroup | None, rank: int, size: int) -> None:
        self._group = group
        self.rank = rank
        self.size = size

    @collective
    def agree(self, status: int, timeout_seconds: float | None = None) -> list[int]:
        """Exchange the status of every rank. Raises LinkLost if some rank does not come in time."""
        if self.size == 1:
            return [status]
        mine = torch.tensor([status], dtype=torch.int64)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            work = dist.all_gather(every, mine, group=self._group, async_op=True)
            assert work is not None
            if timeout_seconds is None:
                work.wait()
            else:
                work.wait(timedelta(seconds=timeout_seconds))
        except RuntimeError as error:
            raise LinkLost(str(error)) from error
        return [int(status) for status in every]

    @collective
    def broadcast(self, message: bytes) -> bytes:
        """Broadcast rank 0's message, and return it on every rank."""
        if self.size == 1:
            return message
        letter = self._told((len(message).to_bytes(LENGTH_BYTES, "little") + message)[:LETTER_BYTES], LETTER_BYTES)
        length, begun = int.from_bytes(letter[:LENGTH_BYTES], "little"), letter[LENGTH_BYTES:]
        if length <= len(begun):
            return begun[:length]
        return begun + self._told(message[len(begun) :], length - len(begun))

    @collective
    def _told(self, message: bytes, num_bytes: int) -> bytes:
        """Rank 0's message as so many bytes, with zeros behind it where it is shorter."""
        content = torch.zeros(num_bytes, dtype=torch.uint8)
        if self.rank == 0 and message:
            content[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        try:
            dist.broadcast(content, src=0, group=self._group)
        except RuntimeError as error:
            raise LinkLost(str(error)) from error
        return content.numpy().tobytes()

    @collective
    def gather(self, message: bytes) -> list[bytes]:
        """Gather every rank's message, by rank, on every rank."""
        if self.size == 1:
            return [message]
        lengths = self.agree(len(message))
        mine = torch.zeros(max(lengths), dtype=torch.uint8)
        if message:
            mine[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(every, mine, group=self._group)
        except RuntimeError as error:
            raise LinkLost(str(error)) from error
        return [content[:length].numpy().tobytes() for content, length in zip(every, lengths, strict=True)]
