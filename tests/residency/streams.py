"""Streams of a GPU that know what comes before what, for tests of order without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

HERE = SimpleNamespace(nbytes=24)  # what is copied


class Event:
    """A moment of a stream, with all that has come before it."""

    def __init__(self, before: Counter[int] | None = None, enable_timing: bool = False) -> None:
        self.before = Counter(before)

    def record(self, stream: Stream) -> None:
        self.before = Counter(stream.before)

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 250.0


class Stream:
    """Counts what is put on it, and what it has waited for."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.before: Counter[int] = Counter()

    def put(self) -> Operation:
        """Something that runs here, behind all so far."""
        self.before[id(self)] += 1
        return Operation(self, Event(self.before))

    def record_event(self) -> Event:
        return Event(self.before)

    def wait_event(self, event: Event) -> None:
        self.before |= event.before

    def wait_stream(self, other: Stream) -> None:
        self.before |= other.before

    def synchronize(self) -> None: ...


class Operation:
    """What runs on a stream."""

    def __init__(self, stream: Stream, event: Event) -> None:
        self._stream, self._event = stream, event

    def is_behind(self, other: Operation) -> bool:
        key = id(other._stream)
        return self._event.before[key] >= other._event.before[key]


class Copied:
    """A tensor that is copied to: on which stream, and when."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.operation: Operation | None = None

    def copy_(self, here: Any, non_blocking: bool) -> None:
        assert non_blocking
        self.operation = self._card.now.put()


class Card:
    """The streams of a device, one of which is the current one."""

    def __init__(self) -> None:
        self.computing = self.now = Stream()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before

    def as_cuda(self) -> SimpleNamespace:
        """In the place of torch.cuda."""
        return SimpleNamespace(Stream=Stream, Event=Event, stream=self.stream, current_stream=lambda device: self.now)
