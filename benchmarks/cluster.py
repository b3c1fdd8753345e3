"""Two replicas on the nodes of a Ray beside two local ones, and how long an upgrade of either server takes.

    python benchmarks/cluster.py [--part throughput upgrade] [--rounds 7] [--upgrades 5]
                                 [--output benchmarks/results/cluster]
    python benchmarks/cluster.py --self-test

The Ray is a head and two nodes of a CPU each, all on this machine; every replica is one rank with one thread, on the
tiny demo checkpoint. `throughput`: videos that are all queued at once, from the first submit until the last file is
there, in turns with both engines. `upgrade`: SIGTERM to a server in the middle of a video, a new one on the same folder
and port, until that has made a step; in turns too. Results are added to those of the other part of the same `--output`,
each with its own conditions. The exit code is 1 if the goal is missed. The self-test has no Ray, and judges nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.engine.processes import wait_until
from tests.engine.ray_nodes import ray_cluster
from tests.server.films import ENDLESS
from tests.server.ray_kills import RayServed
from tests.server.served import Served

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of
from pausing.bars import cell, table
from ringlight import Engine, EngineConfig
from ringlight.core.cluster import ClusterConfig

GOAL = 0.97
REQUEST = {"width": 256, "height": 160, "num_frames": 17, "num_inference_steps": 20, "guidance_scale": 5.0}
TINY = REQUEST | {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
FILM = ENDLESS | {"num_frames": 17}
FLAGS = ("--save-seconds", 0.2, "--drain-timeout", 0, "--no-warm-up")
BEFORE_STEPS = 10  # of a video whose server is ended then
PATIENCE = 300.0

Result = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """Where ranks run, for an engine and for a server."""

    name: str
    cluster: ClusterConfig
    served: Callable[..., Served]
    flags: tuple[object, ...] = ()


LOCAL = Site("local", ClusterConfig(), Served)


@contextlib.contextmanager
def sites(with_ray: bool) -> Iterator[list[Site]]:
    """This machine by itself, and with a Ray on it."""
    if not with_ray:
        yield [LOCAL]
        return
    with ray_cluster(1, 1) as nodes:
        cluster = ClusterConfig(engine="ray", ray_address=nodes.address)
        yield [LOCAL, Site("Ray", cluster, RayServed, ("--engine", "ray", "--ray-address", nodes.address))]


@contextlib.contextmanager
def two_replicas(site: Site, checkpoint: Path) -> Iterator[Engine]:
    """An engine whose replicas are both ready."""
    config = EngineConfig(
        model_path=str(checkpoint), device="cpu", num_threads=1, warm_up=True, cluster=site.cluster, num_slices=1
    )
    with Engine(config, num_replicas=2) as engine:
        engine.start()
        wait_until(lambda: all(each.status == "ready" for each in engine.replicas), PATIENCE)
        yield engine


def crowd(engine: Engine, request: dict[str, Any], num_videos: int, folder: Path) -> float:
    """Seconds for so many videos."""
    began = time.perf_counter()
    jobs = [
        engine.submit(engine.request("a boat", seed=seed, **request), str(folder / f"{seed}.mp4"))
        for seed in range(num_videos)
    ]
    for job in jobs:
        job.wait(PATIENCE)
    return time.perf_counter() - began


def throughput(places: Sequence[Site], checkpoint: Path, folder: Path, asked: argparse.Namespace) -> Result:
    """Videos a minute of two replicas, in turns."""
    request, seconds = TINY if asked.self_test else REQUEST, {site.name: list[float]() for site in places}
    with contextlib.ExitStack() as stack:
        engines = {site.name: stack.enter_context(two_replicas(site, checkpoint)) for site in places}
        for number in range(asked.rounds):
            for name in list(engines)[:: -1 if number % 2 else 1]:
                home = folder / f"{name} {number}"
                home.mkdir()
                seconds[name].append(crowd(engines[name], request, asked.num_videos, home))
    rows = [
        {
            "replicas": f"2, {name}",
            "rounds": asked.rounds,
            "videos a round": asked.num_videos,
            "seconds, median": median(each),
            "seconds, all": ", ".join(f"{one:.1f}" for one in each),
            "videos a minute": 60 * asked.num_videos / median(each),
        }
        for name, each in seconds.items()
    ]
    found: Result = {"rows": rows, "request": request}
    if len(places) > 1:
        found |= {
            "same file of a seed": len({each.read_bytes() for each in folder.glob("* 0/0.mp4")}) == 1,
            "goal": GOAL,
            "Ray over local, of medians": median(seconds["local"]) / median(seconds["Ray"]),
            "Ray over local, median of rounds": median(
                local / ray for local, ray in zip(seconds["local"], seconds["Ray"], strict=True)
            ),
        }
    return found


@dataclass(frozen=True)
class Upgrade:
    """Seconds of an upgrade, one part after the other, and steps that were made twice."""

    drain: float
    start: float
    workers_ready: float
    resumed: float
    steps_again: int

    @property
    def total(self) -> float:
        """Seconds from SIGTERM to a step of the new server."""
        return self.drain + self.start + self.workers_ready + self.resumed


def upgrade_once(old: Served, start: Callable[[int], Served]) -> tuple[Served, Upgrade]:
    """End a server in the middle of a video. Returns the next one, which has nothing to do then."""
    video_id = old.create(**FILM)["id"]
    wait_until(lambda: (old.get(video_id)["step"] or 0) >= BEFORE_STEPS, PATIENCE)
    before = old.get(video_id)["step"]
    moments = [time.perf_counter()]
    code = old.stop(signal.SIGTERM)
    moments.append(time.perf_counter())
    assert code == 0, old.log
    new = start(old.port)
    try:
        new.wait_until_listening()
        moments.append(time.perf_counter())
        new.wait_until_ready()
        moments.append(time.perf_counter())
        known = new.get(video_id)["step"]  # as it is stored, or that of a rank that was sooner than this question

        def has_gone_on() -> bool:
            video = new.get(video_id)
            return video["stage"] == "Denoising" and video["step"] not in (None, 0, known)

        wait_until(has_gone_on, PATIENCE)
        moments.append(time.perf_counter())
        step = new.get(video_id)["step"]
        assert step > 1, "it did not begin anew"
        new.http.post(f"/v1/videos/{video_id}/cancel")
        new.wait(video_id, "failed")
    except BaseException:
        new.stop(signal.SIGKILL)
        raise
    parts = [later - sooner for sooner, later in pairwise(moments)]
    return new, Upgrade(*parts, steps_again=max(0, before - step + 1))


def upgrade(places: Sequence[Site], checkpoint: Path, folder: Path, asked: argparse.Namespace) -> Result:
    """Seconds from SIGTERM to the first step of the next server on the same folder, part by part, in turns."""
    found: dict[str, list[Upgrade]] = {site.name: [] for site in places}

    def starting(site: Site) -> Callable[[int], Served]:
        home = folder / f"{site.name} server"
        home.mkdir()
        return lambda port: site.served(home, checkpoint, *FLAGS, *site.flags, port=port)

    starts = {site.name: starting(site) for site in places}
    servers = {name: start(0) for name, start in starts.items()}
    try:
        for server in servers.values():
            server.wait_until_ready()
        for _ in range(asked.upgrades):
            for name, start in starts.items():
                servers[name], taken = upgrade_once(servers[name], start)
                found[name].append(taken)
    finally:
        for server in servers.values():
            server.stop(signal.SIGKILL)
    rows = []
    for name, each in found.items():
        parts = {
            f"{part.replace('_', ' ')}, s": median(getattr(one, part) for one in each)
            for part in ("drain", "start", "workers_ready", "resumed", "total")
        }
        totals = ", ".join(f"{one.total:.1f}" for one in each)
        again = ", ".join(str(one.steps_again) for one in each)
        rows.append({"server": name, "upgrades": len(each), **parts, "totals, s": totals, "steps made again": again})
    return {"rows": rows, "request": FILM, "flags": " ".join(map(str, FLAGS)), "numbers": "medians"}


PARTS = {"throughput": throughput, "upgrade": upgrade}


def text_of(results: dict[str, Result]) -> str:
    """Both parts as Markdown."""
    lines = ["# A Ray beside one machine"]
    for name in [each for each in PARTS if each in results]:
        notes = {key: value for key, value in results[name].items() if key not in ("rows", "conditions")}
        told = notes | results[name]["conditions"]
        lines += [
            "",
            f"## {name}: {PARTS[name].__doc__}",
            "",
            *(f"- {key}: {cell(value)}" for key, value in told.items()),
        ]
        lines += ["", *table(results[name]["rows"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which (default: both)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-videos", type=int, default=40, help="of a round (default: 40)")
    parser.add_argument("--upgrades", type=int, default=5)
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    asked = parser.parse_args()
    if asked.self_test:
        asked.rounds, asked.num_videos, asked.upgrades = 2, 2, 1
    known = asked.output.with_suffix(".json") if asked.output else None
    results: dict[str, Result] = json.loads(known.read_bytes()) if known and known.exists() else {}
    with demo_checkpoint("tiny", asked.checkpoint) as checkpoint, sites(not asked.self_test) as places:
        for name in asked.part:
            load, began = os.getloadavg()[0], time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = PARTS[name](places, checkpoint, Path(folder), asked)
            about = conditions() | {"checkpoint": name_of(checkpoint), "load average before": load}
            results[name] = found | {"took, s": round(time.monotonic() - began, 1), "conditions": about}
            print(text_of({name: results[name]}), flush=True)
            if known is not None:
                known.parent.mkdir(parents=True, exist_ok=True)
                known.write_text(json.dumps(results, indent=2) + "\n")
                known.with_suffix(".md").write_text(text_of(results))
    missed = results.get("throughput", {}).get("Ray over local, median of rounds", GOAL) < GOAL
    sys.exit(missed and "throughput" in asked.part)


if __name__ == "__main__":
    main()
