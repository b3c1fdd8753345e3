"""Servers whose ranks lie on a Ray of two nodes, and all that can be killed under them, one thing after the other."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.engine.processes import is_alive, wait_until
from tests.engine.ray_nodes import RayNodes, ray_cluster
from tests.server.films import SHORT, Film, replica_of, sha256_of, spread
from tests.server.kills import Client, Findings, check_all, videos_of
from tests.server.served import Served, start_program

VICTIMS = ("a rank", "both ranks", "a raylet", "the server")
SERVING = ("ready", "busy")
MAKES_WAY = "makes way once it has nothing in hand"
PATIENCE = 300.0
POLL_SECONDS = 0.1
FILM: Film = SHORT | {"num_inference_steps": 40}
"""Small, for every exchange between two nodes waits for a turn on the same cores, and long enough to be struck."""
FILMS = (SHORT, FILM, FILM | {"seed": 8, "num_inference_steps": 60})
PAIR = ("--num-gpus", 2, "--ring-degree", 2, "--num-slices", 1, "--save-seconds", 0.2, "--no-warm-up")
"""Two ranks, one on each node; link speeds would decide on slices, and are measured anew at each start. What is killed
is noticed by the end of a connection, long before the watchdog."""


class RayServed(Served):
    """`ringlight serve --engine ray`, always as a program that is started: Ray's threads do not survive a fork."""

    launch = staticmethod(start_program)


class Recovery(NamedTuple):
    """Seconds from a kill until the server had noticed (or, where it was killed, the next one listened), until the
    ranks of before had ended, until there were others, and until they had made a step."""

    noticed: float
    ended: float
    ready: float
    step: float


class RayScene:
    """A server on a Ray cluster, its successors on the same folder, and what is killed under them."""

    def __init__(self, folder: Path, checkpoint: Path, nodes: RayNodes, *options: object) -> None:
        self.nodes = nodes
        self._folder = folder
        self._checkpoint = checkpoint
        self._options = ("--engine", "ray", "--ray-address", nodes.address, *options)
        self.server = self._start()

    def follow(self) -> None:
        """Start the next server, on the folder and the port of one that has ended."""
        self.server = self._start(self.server.port)

    def strike(self, victim: str, chance: random.Random) -> Recovery:
        """Kill one of VICTIMS while videos are made, and return when the next step is done."""
        ranks, since = self.nodes.ranks(), len(self.server.log)
        restarts = replica_of(self.server)["restarts"]
        began = time.monotonic()

        def waited(is_so: Callable[[], object]) -> float:
            wait_until(is_so, PATIENCE, POLL_SECONDS)
            return time.monotonic() - began

        if victim == "the server":
            restarts = -1
            self.server.stop(signal.SIGKILL)
            ended = waited(lambda: not any(map(is_alive, ranks)))
            self.follow()
            self.server.wait_until_listening()
            noticed = time.monotonic() - began
        elif victim == "a raylet":
            node = self.nodes.kill_raylet_of(chance.choice(ranks))
            noticed = waited(lambda: MAKES_WAY in self.server.log[since:])
            self.nodes.bring_back(node)
            ended = waited(lambda: not any(map(is_alive, ranks)))
        else:
            for pid in ranks if victim == "both ranks" else [chance.choice(ranks)]:
                os.kill(pid, signal.SIGKILL)
            noticed = waited(lambda: not is_serving(self.server, restarts))
            ended = waited(lambda: not any(map(is_alive, ranks)))
        ready = waited(lambda: is_serving(self.server, restarts + 1))
        known = steps_done(self.server)
        return Recovery(noticed, ended, ready, waited(lambda: steps_done(self.server) - known))

    def _start(self, port: int = 0) -> RayServed:
        return RayServed(self._folder, self._checkpoint, *self._options, port=port)


@contextmanager
def ray_scene(folder: Path, checkpoint: Path, nodes: RayNodes, *options: object) -> Iterator[RayScene]:
    """A scene whose first server is ready, and whose last one is killed in the end."""
    scene = RayScene(folder, checkpoint, nodes, *options)
    try:
        scene.server.wait_until_ready()
        yield scene
    finally:
        scene.server.stop(signal.SIGKILL)


def is_serving(server: Served, least_restarts: int) -> bool:
    """Whether the only replica can make videos, on ranks that were started again so often at least."""
    replica = replica_of(server)
    return replica["status"] in SERVING and replica["restarts"] >= least_restarts


def steps_done(server: Served) -> set[tuple[str, int]]:
    """The last step of each video that has one, by its id."""
    return {(each["id"], each["step"]) for each in videos_of(server.http) if each["step"]}


def wait_for_any_step(server: Served, chance: random.Random) -> None:
    """Return somewhere in the middle of denoising."""
    step = chance.randrange(1, 30)

    def is_there() -> bool:
        return any(each["stage"] == "Denoising" and (each["step"] or 0) >= step for each in videos_of(server.http))

    wait_until(is_there, PATIENCE, POLL_SECONDS)


def kill_on_ray(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Kill a rank, both, a node's raylet or the server of a Ray, `count` times: each video is made, once, as ever.

    In an order by chance, while a client keeps videos waiting. A raylet comes back, as a node of its own.
    """
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(count)]
    chance.shuffle(victims)
    recoveries: dict[str, list[Recovery]] = {}
    options = (*PAIR, "--max-repeats", count)  # a long one may be struck each time
    with ray_cluster(1, 1) as nodes, ray_scene(folder, checkpoint, nodes, *options) as scene:
        made = [scene.server.completed(**film) for film in FILMS]
        expected = {number: sha256_of(scene.server, video["id"]) for number, video in enumerate(made)}
        client = Client(scene.server.url, random.Random(chance.random()), FILMS)
        try:
            for victim in victims:
                wait_for_any_step(scene.server, chance)
                recoveries.setdefault(victim, []).append(scene.strike(victim, chance))
            client.close()
            found = check_all(scene.server, client, expected, {video["id"]: video for video in made})
        finally:
            client.stop()
    return found | {
        "kills": {victim: len(each) for victim, each in recoveries.items()},
        "noticed (server: next one listens) after, s": spread_by_victim(recoveries, "noticed"),
        "old ranks ended after, s": spread_by_victim(recoveries, "ended"),
        "new ranks ready after, s": spread_by_victim(recoveries, "ready"),
        "next step after, s": spread_by_victim(recoveries, "step"),
    }


def spread_by_victim(recoveries: dict[str, list[Recovery]], name: str) -> dict[str, Any]:
    """One of a Recovery's times, by what was killed."""
    return {victim: spread([getattr(each, name) for each in found]) for victim, found in recoveries.items()}
