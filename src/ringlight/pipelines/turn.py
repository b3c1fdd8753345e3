"""Turn: the stretch of a job between two pauses, and what of it is kept meanwhile."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

T = TypeVar("T")


class Left(NamedTuple):
    """Point at which a job was paused: its denoising steps so far, and the bytes of the tensors that it keeps."""

    step: int
    held_bytes: int


class TurnEnds(Exception):
    """Raised within a denoising step, on all ranks: the turn ends at once, and the step is made again in the next."""


Turns: TypeAlias = Generator[Left, None, T]
"""A computation that yields where its turn ends, and returns its result in its last one. Closed, it is given up."""


def uninterrupted(turns: Turns[T]) -> T:
    """Run a computation to its end without a pause, and return its result."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: T = end.value
            return result


class TurnClock:
    """Clock of one job's seconds, from when this is made or its first turn is said to begin.

    It stands still while others have the turn.
    """

    def __init__(self) -> None:
        self.pauses, self.paused_seconds = 0, 0.0
        self._began = time.perf_counter()
        self._stopped: float | None = None

    def now(self) -> float:
        """Seconds in turns so far."""
        return (time.perf_counter() if self._stopped is None else self._stopped) - self._began - self.paused_seconds

    def stop(self) -> None:
        """Stop the clock at the end of a turn."""
        self._stopped = time.perf_counter()
        self.pauses += 1

    def go_on(self) -> None:
        """Start the clock at the beginning of a turn, the first one or one after a stop."""
        now = time.perf_counter()
        if self._stopped is None:
            self._began = now
        else:
            self.paused_seconds += now - self._stopped
        self._stopped = None


def tensor_bytes(*kept: object) -> int:
    """Bytes of all tensors in these values, their items and their own fields, no memory twice."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(kept)}
    return sum(storages.values())


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
