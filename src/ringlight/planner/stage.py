"""StageCost: seconds of one stage of a request."""

from __future__ import annotations

import msgspec


class StageCost(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one stage: its own work, the link's and the bus's.

    Of the link's, `exposed_seconds` add to its work. Over the bus weights and the like come from the host;
    `bus_exposed_seconds` of them add.
    """

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
        """Seconds of the link that computation hides."""
        return self.link_seconds - self.exposed_seconds
