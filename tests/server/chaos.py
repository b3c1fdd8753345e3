"""What must hold, whatever happens: every scenario by its name, with how often a whole run does it.

A scenario does what its docstring says so many times, asserts what was promised, and returns what it has counted and
measured: times are told, never asserted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server import bounds, cancels, crowds, disks, kills, pauses, ray_kills
from tests.server.films import RING, Originals
from tests.server.served import Served, serve

Findings = dict[str, Any]
Alone = Callable[[Path, Path, int, random.Random], Findings]
OnServer = Callable[[Served, Originals, int, random.Random], Findings]

OPTIONS = (*RING, "--drain-timeout", 0, "--queue-size", 32)
"""Of the server that scenarios share."""


@dataclass(frozen=True)
class Scenario:
    """`run` is given a new folder, a checkpoint, how often, and chance."""

    run: Alone
    count: int
    purpose: str


def alone(scenario: Alone, count: int) -> Scenario:
    """One that starts what it needs."""
    return Scenario(scenario, count, _purpose(scenario))


def on_server(scenario: OnServer, count: int) -> Scenario:
    """One that needs a server, and is given one of its own."""

    def run(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
        with serve(folder, checkpoint, *OPTIONS) as served:
            return scenario(served, Originals(served), count, chance)

    return Scenario(run, count, _purpose(scenario))


def _purpose(scenario: Alone | OnServer) -> str:
    assert scenario.__doc__ is not None
    return scenario.__doc__.partition("\n")[0]


SCENARIOS: dict[str, Scenario] = {
    "kill the server": alone(kills.kill_the_server, 100),
    "kill a rank": on_server(kills.kill_ranks, 50),
    "kill a rank again and again": on_server(kills.kill_again_and_again, 3),
    "kill on Ray": alone(ray_kills.kill_on_ray, 20),
    "kill while paused": alone(pauses.kill_while_paused, 20),
    "stop busy ranks": on_server(kills.stop_busy_ranks, 5),
    "stop idle ranks": on_server(kills.stop_idle_ranks, 5),
    "fail in ranks": alone(bounds.fail_in_ranks, 5),
    "terminate": alone(kills.terminate, 3),
    "disk full": alone(disks.fill_the_disk, 5),
    "store locked": on_server(disks.lock_the_store, 5),
    "store damaged": alone(disks.damage_the_store, 20),
    "cancel at points": on_server(cancels.cancel_at_points, 5),
    "cancel at completion": on_server(cancels.race_with_completion, 500),
    "cancel at a pause": on_server(pauses.race_with_pause, 200),
    "poll and submit": on_server(crowds.poll_and_submit, 120),
    "create at once": on_server(crowds.create_at_once, 500),
    "overhead": on_server(crowds.add_up_overhead, 50),
    "a second server": on_server(bounds.refuse_a_second_server, 3),
    "deadlines": on_server(bounds.meet_deadlines, 5),
    "priorities": on_server(bounds.keep_priorities, 30),
    "retention by age": alone(bounds.forget_by_age, 5),
    "strangers": alone(bounds.forget_strangers, 3),
    "retention by bytes": alone(bounds.forget_by_bytes, 6),
}
