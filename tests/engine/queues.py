"""A line without an engine."""

from __future__ import annotations

from ringlight.core.clock import Clock
from ringlight.core.settings import Scheduling
from ringlight.engine.order import JobOrder
from ringlight.engine.pace import Pace
from ringlight.engine.queue import JobQueue
from ringlight.planner.scheduling import Policy


def a_queue(scheduling: Scheduling = "shortest", clock: Clock | None = None) -> JobQueue:
    """Nobody is in it yet."""
    return JobQueue(JobOrder(Policy(scheduling=scheduling), Pace(), clock or Clock()))
