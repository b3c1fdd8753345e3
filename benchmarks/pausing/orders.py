"""The orders in which two ranks take videos, to be compared."""

from __future__ import annotations

from dataclasses import dataclass

from ringlight.core.settings import Scheduling
from ringlight.planner.simulate import Order as PolicyName


@dataclass(frozen=True)
class Order:
    """How videos are taken by two ranks, which are one replica or two: a `policy` of the planner's by its name."""

    name: str
    policy: PolicyName
    num_replicas: int = 1

    @property
    def scheduling(self) -> Scheduling:
        return "arrival" if self.policy == "arrival" else "shortest"


ARRIVAL = Order("first come, 1 x 2 ranks", "arrival")
ARRIVAL_APART = Order("first come, 2 x 1 rank", "arrival", num_replicas=2)
SHORTEST = Order("shortest first, never paused", "shortest without pauses")
PAUSING = Order("shortest first, paused", "shortest")
ORDERS = (ARRIVAL, ARRIVAL_APART, SHORTEST, PAUSING)
