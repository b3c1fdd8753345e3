"""Forecast of when each job in the queue has its turn, and is over: the queue played out, if no job is added."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

from ringlight.planner.queueing import play
from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.task import Service, Station, Task


class ReplicaJobs(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a replica.

    The running one takes `late_seconds` more than its rest, by its own steps; `can_pause` is False once it cannot be
    paused, as in decoding. It takes others in `begins_in` seconds.
    """

    running: Candidate | None = None
    late_seconds: float = 0.0
    held: Sequence[Candidate] = ()
    can_pause: bool = True
    begins_in: float = 0.0


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Position of a job and its expected times: 0 has the turn, from 1 on they wait for theirs in this order.

    Seconds from now on; None if they depend on a job whose rest is not known.
    """

    position: int
    begin_seconds: float | None
    end_seconds: float | None


def forecast(
    policy: Policy,
    replicas: Sequence[ReplicaJobs],
    waiting: Sequence[Candidate],
    over_share: Collection[str] = (),
) -> dict[str, Forecast]:
    """Forecast when each job, by key, begins and ends; who is over its share now counts as that throughout.

    A job whose rest is unknown is taken to go on for ever: others that another replica takes before have their times.
    Without replicas nobody has any.
    """
    stations = []
    for replica in replicas:
        running = None if replica.running is None else _task(replica.running, can_pause=replica.can_pause)
        if running is not None:
            running.begin = 0.0
        held = [_task(each) for each in replica.held]
        there_at, began = replica.begins_in, replica.late_seconds
        stations.append(Station(running=running, held=held, began=began, there_at=there_at))
    line = [_task(each) for each in waiting]
    inside = {task.job.key for station in stations if (task := station.running) is not None}
    tasks = [task for station in stations for task in (station.running, *station.held) if task is not None] + line
    play(line, stations, policy, over_share=over_share)
    places = {each.key: place for place, each in enumerate(policy.ordered([task.job for task in tasks], over_share))}
    behind = sorted(
        (task for task in tasks if task.job.key not in inside),
        key=lambda task: (task.begin, places[task.job.key]),
    )
    position = {task.job.key: number for number, task in enumerate(behind, start=1)}
    return {
        task.job.key: Forecast(
            position=position.get(task.job.key, 0), begin_seconds=_known(task.begin), end_seconds=_known(task.end)
        )
        for task in tasks
    }


def _task(job: Candidate, *, can_pause: bool = False) -> Task:
    """Build a task; one that begins later is not paused, because without newcomers it was the first in order."""
    rest = job.rest_seconds
    return Task(job=job, service=Service(after_seconds=rest) if can_pause else Service(before_seconds=rest))


def _known(seconds: float) -> float | None:
    return seconds if seconds < math.inf else None
