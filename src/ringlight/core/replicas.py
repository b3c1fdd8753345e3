"""ReplicaRange: between how many replicas an engine has, as it is written in settings."""

from __future__ import annotations

import re

import msgspec

from ringlight.core.errors import InvalidSetting

AUTO = "auto"
IDLE_SECONDS = 600.0  # that a replica may be without work before there are fewer
WRITTEN = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?")


class ReplicaRange(msgspec.Struct, frozen=True):
    """Bounds on the number of replicas; between them it follows the jobs.

    There are more once a job would wait longer than `scale_up_wait`, 0: than a replica takes to start; and fewer once
    that many were not needed for `scale_down_idle`. With `least` 0 none is there where there is nothing to do. Raises
    InvalidSetting.
    """

    least: int = 1
    most: int = 1
    scale_up_wait: float = 0.0
    scale_down_idle: float = IDLE_SECONDS

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidSetting(f"num-replicas must be at least 1, not {self.most}; 0..1 has one while it has work")
        if not 0 <= self.least <= self.most:
            raise InvalidSetting(f"num-replicas {self.least}..{self.most} must begin with the smaller number")
        if not (self.scale_up_wait >= 0 and self.scale_down_idle >= 0):
            raise InvalidSetting("scale-up-wait and scale-down-idle must be numbers of seconds, 0 or more")

    @classmethod
    def parse(cls, text: str, scale_up_wait: float = 0.0, scale_down_idle: float = IDLE_SECONDS) -> ReplicaRange | None:
        """Parse a number or a range: 2 or 1..8; None for auto. Raises InvalidSetting."""
        if text.strip() == AUTO:
            return None
        if (found := WRITTEN.fullmatch(text.strip())) is None:
            raise InvalidSetting(f"num-replicas must be a number (2), a range (1..8) or {AUTO}, not {text!r}")
        least, most = found.groups()
        return cls(int(least), int(most or least), scale_up_wait, scale_down_idle)

    @property
    def is_fixed(self) -> bool:
        """Whether the number never changes."""
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.most) if self.is_fixed else f"{self.least}..{self.most}"
