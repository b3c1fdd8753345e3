"""InPlace: the parts of one network while a stage runs on a CPU, which reads the shared copy where it lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ringlight.core.host import give_back_freed
from ringlight.residency.lane import Wait
from ringlight.residency.part import WeightPart
from ringlight.residency.source import WeightSource


class InPlace:
    """Weights of one network that nobody has to bring. To be closed when the stage ends.

    Those that are kept are laid out once, in this process's own memory, as kernels are fastest with; the others are
    computed with as they are, or where that would make a difference laid out for each pass. What has to be read from
    files, or is changed, is this process's own while it is needed.
    """

    def __init__(
        self, parts: Sequence[WeightPart], source: WeightSource, kept: Collection[int], sharing: int = 1
    ) -> None:
        """Prepare the parts.

        `kept` are the indices of parts that stay. `sharing` computations go through each pass together, and each of
        them takes every part and is done with it.
        """
        self._parts, self._source, self._kept, self._sharing = parts, source, frozenset(kept), sharing
        self._made: dict[int, int] = {}  # what is not as it lies, and how many are done with it
        self.num_bytes = 0
        self.waits: list[Wait] = []

    def close(self) -> None:
        """Restore all parts to where they lie, without holes there: the stage is over."""
        for index in list(self._made):
            self._give_up(index)
        give_back_freed()

    def take(self, index: int) -> None:
        """Take a part, laid out if that is wanted."""
        part = self._parts[index]
        if index in self._made:
            return
        is_laid_out = index in self._kept or part.needs_layout
        is_own = part.change is not None or not self._source.holds(part)
        if is_laid_out or is_own:
            self._made[index] = 0
        if is_own:
            self._have_own(part)
        if is_laid_out:
            part.lay_out()
        if is_laid_out and is_own:
            part.give_up_rest()

    def done(self, index: int) -> None:
        """Give up what is not kept, once all that share the pass are done with it."""
        if index not in self._made or index in self._kept:
            return
        self._made[index] += 1
        if self._made[index] == self._sharing:
            self._give_up(index)

    def _have_own(self, part: WeightPart) -> None:
        """Copy a part to bytes of this process, changed if that is wanted."""
        flat = self._source.flat(part)
        part.bind(flat.clone() if self._source.holds(part) else flat)
        self.num_bytes += part.num_bytes
        if part.change is not None:
            part.change()

    def _give_up(self, index: int) -> None:
        del self._made[index]
        self._parts[index].forget_layout()
        self._source.bind([self._parts[index]])
