"""StreamWait: a wait of one of a device's streams for a moment of another, and how long it was."""

from __future__ import annotations

from typing import Self

import torch


class StreamWait:
    """Wait of a stream that does not block the host: its seconds are taken from events on that stream."""

    def __init__(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._began, self._ended = began, ended

    @classmethod
    def begin(cls, stream: torch.cuda.Stream, event: torch.cuda.Event) -> Self:
        """Order all further work of `stream` after an event."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record(stream)
        stream.wait_event(event)
        ended.record(stream)
        return cls(began, ended)

    @property
    def seconds(self) -> float:
        """Seconds of the wait. The host blocks until it is over."""
        self._ended.synchronize()
        milliseconds: float = self._began.elapsed_time(self._ended)
        return milliseconds / 1000
