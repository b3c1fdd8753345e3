"""ParallelLayout: how one generation is spread over ranks. Degrees only, no devices."""

from __future__ import annotations

import msgspec

from ringlight.core.errors import InvalidLayout


class ParallelLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Degrees of parallelism of one generation: guidance branches x Ulysses x ring.

    The name is the field's: `u1r2` is a ring of two, `c2u1r1` two guidance branches on two ranks.
    """

    cfg: int = 1
    ulysses: int = 1
    ring: int = 1

    def __post_init__(self) -> None:
        if self.cfg not in (1, 2):
            raise InvalidLayout(f"cfg-degree must be 1 or 2 (there are two guidance branches), not {self.cfg}")
        for name, degree in (("ulysses-degree", self.ulysses), ("ring-degree", self.ring)):
            if degree < 1:
                raise InvalidLayout(f"{name} must be at least 1, not {degree}")

    @property
    def num_ranks(self) -> int:
        return self.cfg * self.ulysses * self.ring

    @property
    def name(self) -> str:
        branches = f"c{self.cfg}" if self.cfg > 1 else ""
        return f"{branches}u{self.ulysses}r{self.ring}"
