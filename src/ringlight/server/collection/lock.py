"""ServerLock: a file that one server holds at a time, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Self

from ringlight.core.errors import Occupied


class ServerLock:
    """A lock on a file, which is made where it is missing, until it is closed or the process ends."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take it at once. Raises Occupied(refusal) where another server has it; OSError."""
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Occupied(refusal) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another server have it."""
        self._file.close()
