"""Taking turns: several computations on one device, each pausing while its data travels."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def in_turns(*computations: Generator[None, None, T]) -> list[T]:
    """Run generators alternately, each up to its next pause, and return what they return, in order."""
    results: dict[int, T] = {}
    running = dict(enumerate(computations))
    while running:
        for index, computation in list(running.items()):
            try:
                next(computation)
            except StopIteration as end:
                results[index] = end.value
                del running[index]
    return [results[index] for index in range(len(computations))]
