"""Control: what ranks decide and tell together, apart from the data they compute with."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from ringlight.parallel.collective import collective
from ringlight.parallel.link import LinkLost

LENGTH_BYTES = 8
LETTER_BYTES = 4096  # that are told at once: an order with its prompt; what is longer takes two rounds
ROOM_BYTES = LETTER_BYTES - LENGTH_BYTES


class Control:
    """Small messages over a gloo group of their own. Every rank calls the same method at the same point."""

    def __init__(self, group: dist.ProcessGroup | None, rank: int, size: int) -> None:
        self._group = group
        self.rank = rank
        self.size = size

    @collective
    def agree(self, status: int, timeout_seconds: float | None = None) -> list[int]:
        """The status of every rank, told to all. Raises LinkLost when some rank does not come in time."""
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
        """Rank 0's message, on every rank."""
        if self.size == 1:
            return message
        length, begun = opened(self._told(letter_of(message), LETTER_BYTES))
        rest = self._told(message[ROOM_BYTES:], length - ROOM_BYTES) if length > ROOM_BYTES else b""
        return (begun + rest)[:length]

    @collective
    def _told(self, message: bytes, num_bytes: int) -> bytes:
        """Rank 0's message as so many bytes, with zeros behind it where it is shorter."""
        content = padded(message if self.rank == 0 else b"", num_bytes)
        try:
            dist.broadcast(content, src=0, group=self._group)
        except RuntimeError as error:
            raise LinkLost(str(error)) from error
        return content.numpy().tobytes()

    @collective
    def gather(self, message: bytes) -> list[bytes]:
        """Every rank's message, by rank, on every rank."""
        if self.size == 1:
            return [message]
        letters = [opened(letter) for letter in self._told_by_all(letter_of(message), LETTER_BYTES)]
        rests = [b""] * self.size
        if (rest_bytes := max(length for length, _ in letters) - ROOM_BYTES) > 0:
            rests = self._told_by_all(message[ROOM_BYTES:], rest_bytes)
        return [(begun + rest)[:length] for (length, begun), rest in zip(letters, rests, strict=True)]

    @collective
    def _told_by_all(self, message: bytes, num_bytes: int) -> list[bytes]:
        """Every rank's message as so many bytes, with zeros behind it where it is shorter."""
        mine = padded(message, num_bytes)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(every, mine, group=self._group)
        except RuntimeError as error:
            raise LinkLost(str(error)) from error
        return [content.numpy().tobytes() for content in every]


def letter_of(message: bytes) -> bytes:
    """How long a message is, and as much of it as is told at once."""
    return (len(message).to_bytes(LENGTH_BYTES, "little") + message)[:LETTER_BYTES]


def opened(letter: bytes) -> tuple[int, bytes]:
    """How long the message is that a letter begins, and what it says of it, perhaps with zeros behind it."""
    return int.from_bytes(letter[:LENGTH_BYTES], "little"), letter[LENGTH_BYTES:]


def padded(message: bytes, num_bytes: int) -> torch.Tensor:
    """A message as so many bytes, with zeros behind it where it is shorter."""
    return torch.frombuffer(bytearray(message.ljust(num_bytes, b"\0")), dtype=torch.uint8)
