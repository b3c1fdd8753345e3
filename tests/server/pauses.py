"""Killing and cancelling while videos make way for shorter ones: nothing is lost, charged to them, or ended twice.

Only processes that the server under test has started are ever touched.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.engine.processes import ends, wait_until
from tests.server.cancels import cancel_twice, check_end
from tests.server.films import (
    RING,
    SHORT,
    Film,
    Originals,
    num_finished,
    ranks_of,
    sha256_of,
    spread,
    wait_for_step,
    wait_until_idle,
    wait_until_over,
)
from tests.server.kills import strike
from tests.server.served import SMALL, Served

Findings = dict[str, Any]

LONG: Film = SMALL | {"seed": 11, "size": "256x160", "num_frames": 5, "num_inference_steps": 120}
"""Makes way for MIDDLING."""
MIDDLING: Film = SMALL | {"seed": 12, "size": "128x96", "num_inference_steps": 60}
"""Long enough for LONG to be found paused, and something killed, while it is made."""
WHAT_DIES = ("rank 0", "rank 1", "both ranks", "the server")
TOLD = {"makes way": "makes way", "goes on": "up again"}
"""What the log says of a video then, after its name."""


def kill_while_paused(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Kill ranks or the server, `count` times, while a video is paused: it goes on from there, and is not charged."""
    options = (*RING, "--drain-timeout", 0)
    server = Served(folder, checkpoint, *options)
    took: dict[str, list[float]] = {}
    went_on = 0  # others were killed before that was written
    try:
        server.wait_until_ready()
        originals = Originals(server)
        expected = [originals.sha256(film) for film in (MIDDLING, LONG)]
        for number in range(count):
            victim = WHAT_DIES[number % len(WHAT_DIES)]
            long = server.create(**LONG)["id"]
            wait_for_step(server, long, chance.randrange(1, 40))
            middling = server.create(**MIDDLING)["id"]
            wait_for_step(server, middling, 1)
            paused, began = server.get(long), time.monotonic()
            assert paused["stage"] == "Paused", paused
            server = die(server, victim, folder, checkpoint, options)
            if victim == "the server":
                found = server.get(long)
                assert (found["status"], found["pauses"]) == ("in_progress", paused["pauses"]), found
                assert found["paused_seconds"] > paused["paused_seconds"], found
            deaths = 0 if victim == "the server" else 1
            for video_id, original, restarts in zip((middling, long), expected, (deaths, 0), strict=True):
                video = server.wait(video_id)
                assert video["restarts"] == restarts, (victim, video)
                assert sha256_of(server, video_id) == original, victim
            report = server.http.get(f"/v1/videos/{long}/report").json()
            assert report["pauses"] >= paused["pauses"] > 0, report
            went_on += report["resumed_from_step"] >= paused["step"]
            took.setdefault(victim, []).append(time.monotonic() - began)
    finally:
        server.stop(signal.SIGKILL)
    return {
        "kills": {victim: len(seconds) for victim, seconds in took.items()},
        "went on where they were paused": went_on,
        "videos completed with identical frames": 2 * count,
        "both made after, s": {victim: spread(seconds) for victim, seconds in took.items()},
    }


def die(server: Served, victim: str, folder: Path, checkpoint: Path, options: tuple[object, ...]) -> Served:
    """Kill; returns the server that there is then, whose new ranks may not be there yet."""
    if victim != "the server":
        strike(server, {"rank 0": [0], "rank 1": [1], "both ranks": [0, 1]}[victim], signal.SIGKILL)
        return server
    ranks = ranks_of(server, 2)
    server.stop(signal.SIGKILL)
    assert all(map(ends, ranks))
    again = Served(folder, checkpoint, *options, port=server.port)
    again.wait_until_listening()
    return again


class Moment:
    """When to do something, after something else: it follows what is seen, so that it is too late as often as not."""

    def __init__(self, seconds: float, step_seconds: float) -> None:
        self._seconds = seconds
        self._step_seconds = step_seconds

    def wait(self, chance: random.Random) -> None:
        time.sleep(max(0.0, self._seconds + chance.uniform(-self._step_seconds, self._step_seconds)))

    def learn(self, was_late: bool) -> None:
        self._seconds = max(0.0, self._seconds + (-self._step_seconds if was_late else self._step_seconds))
        self._step_seconds = max(0.002, 0.97 * self._step_seconds)


def race_with_pause(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Cancel `count` videos, twice at once, about when they make way, or go on again: one end, and the other is right.

    In turn about when the shorter one comes, and about when it is made.
    """
    original = originals.sha256(SHORT)
    before, told = ranks_of(served, 2), num_finished(served)
    moments = {"makes way": Moment(0.03, 0.02), "goes on": Moment(0.25, 0.1)}
    outcomes: dict[str, Counter[str]] = {race: Counter() for race in moments}
    for number in range(count):
        race = list(moments)[number % len(moments)]
        long = served.create(**LONG)["id"]
        wait_for_step(served, long, 1)
        created: list[str] = []
        creating = threading.Thread(target=lambda created=created: created.append(served.create(**SHORT)["id"]))
        creating.start()
        moments[race].wait(chance)
        answers = cancel_twice(f"{served.url}/v1/videos/{long}/cancel")
        assert [answer.status_code for answer in answers] == [200, 200]
        creating.join()
        wait_until_over(served, long)
        check_end(served, long, may_be_completed=False)
        assert served.wait(created[0])["restarts"] == 0
        assert sha256_of(served, created[0]) == original
        wait_until_idle(served)
        told += 2
        wait_until(lambda told=told: num_finished(served) >= told)  # an end is written down first
        assert num_finished(served) == told
        was_late = f"{long} {TOLD[race]}" in served.log
        outcomes[race]["after it" if was_late else "before it"] += 1
        moments[race].learn(was_late)
    assert ranks_of(served, 2) == before
    return {
        "races": count,
        "cancelled when it": {race: dict(found) for race, found in outcomes.items()},
        "videos with two ends": 0,
        "shorter ones completed with identical frames": count,
    }
