"""A full queue before one replica and before several: videos a minute, and how long ranks idle between two jobs.

    python benchmarks/replicas.py [--num-replicas 1 2] [--num-videos 20] [--output benchmarks/results/replicas]
    python benchmarks/replicas.py --self-test

Every replica is one rank with one thread. Idle is the part of the time, from the first job's start until the last one
is computed, in which a replica's ranks worked on no job: 1 - (sum of totals without Output) / (replicas x that time).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of

REQUEST = {"width": 256, "height": 160, "num_frames": 17, "num_inference_steps": 20, "guidance_scale": 5.0}
SELF_TEST = REQUEST | {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
GOAL_IDLE = 0.02


def measure(checkpoint: Path, request: dict[str, Any], num_replicas: int, num_videos: int) -> dict[str, Any]:
    """Make so many videos on so many replicas, all queued at once."""
    from ringlight import Engine, EngineConfig

    config = EngineConfig(model_path=str(checkpoint), device="cpu", num_threads=1, warm_up=True)
    began, computed, lock = [], [], threading.Lock()

    def listen(job: Any) -> None:
        with lock:
            if job.state.stage == "InputValidation":
                began.append(time.perf_counter())
            elif job.state.stage == "Output" and job.state.status == "in_progress":
                computed.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, Engine(config, num_replicas=num_replicas) as engine:
        engine.start()
        while any(replica.status == "starting" for replica in engine.replicas):
            time.sleep(0.05)
        jobs = [
            engine.submit(engine.request("a boat", seed=seed, **request), f"{folder}/{seed}.mp4", listen)
            for seed in range(num_videos)
        ]
        reports = [job.wait() for job in jobs]
    wall = max(computed) - min(began)
    busy = sum(report.total_seconds - report.stages[-1].seconds for report in reports)
    return {
        "num_replicas": num_replicas,
        "videos": num_videos,
        "seconds": wall,
        "videos_per_minute": 60 * num_videos / wall,
        "idle": 1 - busy / (num_replicas * wall),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num-videos", type=int, default=20)
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    asked = parser.parse_args()
    request, numbers, num_videos = REQUEST, asked.num_replicas, asked.num_videos
    if asked.self_test:
        request, numbers, num_videos = SELF_TEST, [1], 2
    with demo_checkpoint("tiny", asked.checkpoint) as checkpoint:
        rows = [measure(checkpoint, request, number, num_videos) for number in numbers]
        found = conditions() | {"checkpoint": name_of(checkpoint), "request": request}
    lines = ["# Replicas before a full queue", "", *(f"- {name}: {value}" for name, value in found.items()), ""]
    lines += [
        f"| Replicas | Videos | Seconds | Videos a minute | Idle (goal: {GOAL_IDLE:.0%}) |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['num_replicas']} | {row['videos']} | {row['seconds']:.1f} | {row['videos_per_minute']:.1f} | "
        f"{row['idle']:.1%} |"
        for row in rows
    ]
    print("\n".join(lines))
    if asked.output is not None:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
        asked.output.with_suffix(".json").write_text(json.dumps(found | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
