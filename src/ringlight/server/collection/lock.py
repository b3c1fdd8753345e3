"""ServerLock: a file that one server holds at a time, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Self

from ringlight.core.errors import Occupied


class ServerLock:
    """Lock on a file, which is made if it is missing, until it is closed or the process ends."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock at once. Raises Occupied(refusal) if another server has it; OSError."""
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
        """Release the lock."""
        self._file.close()
