"""Replicas that come and go beside fixed numbers of them, as the planner plays both: waits, and what they cost.

    python benchmarks/elastic.py

Seconds of videos are a mix that is written below; nothing is measured here. It takes about a minute.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from conditions import conditions
from demo import add_self_test
from ringlight.core.replicas import ReplicaRange
from ringlight.planner.simulate import Demand, Load, QueueResult, mixed, simulate
from ringlight.planner.task import Service

RESULTS = Path(__file__).parent / "results" / "elastic"
CLIP = Service(before_seconds=1.0, num_steps=25, step_seconds=1.0, after_seconds=4.0)
FILM = Service(before_seconds=1.0, num_steps=50, step_seconds=3.5, after_seconds=24.0)
SHARES = (0.7, 0.3)
DEMANDS = [Demand(service=each, best_seconds=each.alone_seconds) for each in (CLIP, FILM)]
BUSY_SECONDS = sum(share * each.service.busy_seconds for share, each in zip(SHARES, DEMANDS, strict=True))
START_SECONDS, MOST, NUM_REQUESTS = 60.0, 4, 3000
LOADS = (0.05, 0.3, 1.0, 2.5)  # replicas that are busy on average
FIXED = [ReplicaRange(number, number) for number in range(1, MOST + 1)]
ELASTIC = [ReplicaRange(least, MOST) for least in (0, 1)]
IDLE = [ReplicaRange(0, MOST, scale_down_idle=seconds) for seconds in (60.0, 300.0, 600.0, 1800.0)]
WAIT = [ReplicaRange(1, MOST, scale_up_wait=seconds) for seconds in (1.0, 30.0, 60.0, 120.0, 240.0)]


def play(busy: float, asked: ReplicaRange, num_requests: int) -> QueueResult:
    """A line under a load that keeps so many replicas busy."""
    load = Load(rate=busy / BUSY_SECONDS, num_requests=num_requests)
    draw = mixed(SHARES, DEMANDS)
    return simulate(load, asked, draw, start_seconds=START_SECONDS)


def rows(sizes: Sequence[tuple[str, ReplicaRange]], num_requests: int) -> Iterator[str]:
    yield "| Busy on average | Replicas | Mean wait (s) | p95 wait (s) | Mean slowdown | Replica hours a day |"
    yield "|---:|---|---:|---:|---:|---:|"
    for busy in LOADS:
        for name, asked in sizes:
            found = play(busy, asked, num_requests)
            hours = f"{24 * found.mean_replicas:.1f}"
            told = f"{found.mean_wait_seconds:.1f} | {found.p95_wait_seconds:.1f} | {found.mean_slowdown:.2f} | {hours}"
            yield f"| {busy:g} | {name} | {told if found.mean_seconds < math.inf else 'falls behind | | | ' + hours} |"


def written(num_requests: int) -> Iterator[str]:
    yield "# Replicas that come and go"
    yield ""
    yield (
        f"As the planner plays them: {SHARES[0]:.0%} clips of {CLIP.busy_seconds:g} s and {SHARES[1]:.0%} films of "
        f"{FILM.busy_seconds:g} s, {num_requests:,} at random moments, order: shortest. A replica takes "
        f"{START_SECONDS:g} s to start, in which it counts as a replica that is paid for."
    )
    yield ""
    yield "## Beside fixed numbers"
    yield ""
    yield from rows([(str(each), each) for each in (*FIXED, *ELASTIC)], num_requests)
    yield ""
    yield f"## 0..{MOST}, ended when not needed for so long (`--scale-down-idle`)"
    yield ""
    yield from rows([(f"{each.scale_down_idle:g} s", each) for each in IDLE], num_requests)
    yield ""
    yield f"## 1..{MOST}, more when somebody would wait longer than that (`--scale-up-wait`)"
    yield ""
    yield from rows([(f"{each.scale_up_wait:g} s", each) for each in WAIT], num_requests)
    yield ""
    said = conditions()
    yield f"{said['date']}, commit {said['commit']}: `{said['command']}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="where results go: this name with .md")
    add_self_test(parser)
    asked = parser.parse_args()
    text = "\n".join(written(100 if asked.self_test else NUM_REQUESTS)) + "\n"
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
