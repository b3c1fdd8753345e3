"""Taking turns: several computations on one device, each pausing while its data travels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from ringlight.parallel.link import LinkLost

T = TypeVar("T")


class BrokenOff(Exception):
    """Raised in a computation at a pause: it is to wait for what is under way, and to end."""


class Travel(Protocol):
    """Data under way between ranks."""

    def settle(self) -> None:
        """Wait for the data, if nothing else is done with it. All ranks call this at the same place."""


def in_turns(*computations: Generator[int, None, T], between: Callable[[], None] = lambda: None) -> list[T]:
    """Run generators alternately, each up to its next pause, and return what they return, in order.

    Each says where it pauses how many blocks are behind it; they are alike, on all ranks. `between` is called whenever
    one more is behind all of them. What it raises it raises on all ranks, unless a rank is lost: they are then broken
    off at the same pause, with nothing left under way.
    """
    results: dict[int, T] = {}
    running = dict(enumerate(computations))
    behind = 0
    while running:
        before = behind
        for index, computation in list(running.items()):
            try:
                behind = next(computation)
            except StopIteration as end:
                results[index] = end.value
                del running[index]
        if running and behind != before:
            try:
                between()
            except LinkLost:
                raise
            except Exception:
                for computation in running.values():
                    break_off(computation)
                raise
    return [results[index] for index in range(len(computations))]


@contextmanager
def pause(travel: Travel) -> Iterator[None]:
    """Guard the `yield` of a generator: if it is broken off there, its data is waited for."""
    try:
        yield
    except BrokenOff:
        travel.settle()
        raise


def break_off(computation: Generator[int, None, T]) -> None:
    """End a generator that pauses. Returns when nothing of it is under way."""
    with suppress(BrokenOff):
        computation.throw(BrokenOff())
