"""Signals that ask a command to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that is set by the first Ctrl-C, SIGTERM or lost terminal; a second one raises KeyboardInterrupt."""
    interrupted = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    with handled(on_signal):
        yield interrupted


def interrupt(number: int, frame: object) -> None:
    """A handler of signals, also where they were ignored before, as in the background of a script."""
    raise KeyboardInterrupt


@contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """A handler for the signals that ask a command to end."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
