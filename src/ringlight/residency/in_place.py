"""InPlace: the parts of one network while a stage runs on a CPU, which reads the shared copy where it lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType

from ringlight.residency.part import WeightPart
from ringlight.residency.shelf import Shelf


class InPlace:
    """Weights of one network that nobody has to bring. To be entered, and left when the stage ends.

    Those that are kept are laid out once, in this process's own memory, as kernels are fastest with; the others are
    computed with as they are, or where that would make a difference laid out for each pass.
    """

    num_bytes = 0

    def __init__(self, parts: Sequence[WeightPart], shelf: Shelf, kept: Collection[int]) -> None:
        self._parts, self._shelf, self._kept = parts, shelf, frozenset(kept)
        self._laid_out: set[int] = set()

    def __enter__(self) -> InPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for index in list(self._laid_out):
            self._give_up(index)

    def take(self, index: int) -> None:
        """Have a part laid out, where that is wanted."""
        if index not in self._laid_out and (index in self._kept or self._parts[index].needs_layout):
            self._parts[index].lay_out()
            self._laid_out.add(index)

    def done(self, index: int) -> None:
        """Give up what was laid out for this pass."""
        if index in self._laid_out and index not in self._kept:
            self._give_up(index)

    def _give_up(self, index: int) -> None:
        self._laid_out.remove(index)
        self._parts[index].forget_layout()
        self._shelf.bind([self._parts[index]])
