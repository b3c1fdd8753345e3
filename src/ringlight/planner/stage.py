"""StageCost: seconds of one stage of a request."""

from __future__ import annotations

import msgspec


class StageCost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one stage: its own work, and the link's, of which `exposed_seconds` add to it; and the bus's, over
    which weights and the like come from the host, of which `bus_exposed_seconds` do."""

    name: str
    compute_seconds: float
    link_seconds: float = 0.0
    exposed_seconds: float = 0.0
    bus_seconds: float = 0.0
    bus_exposed_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds + self.bus_exposed_seconds

    @property
    def hidden_seconds(self) -> float:
        """Of the link."""
        return self.link_seconds - self.exposed_seconds
