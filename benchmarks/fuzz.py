"""What a server makes of what nobody should send: requests from its own description, damaged pictures, bad weights.

    python benchmarks/fuzz.py [--cases 5000] [--seed 20261124] [--output benchmarks/results]
    python benchmarks/fuzz.py --self-test

A server with the tiny demo checkpoint on a CPU, asked over loopback by one client. First what schemathesis makes of
/openapi.json, in rounds with one seed after the other until there were so many cases. Then two hundred damaged
pictures. Then `ringlight serve` on checkpoints that cannot be trusted. The exit code is 1 if anything was not as it
should be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.server.damaged import damaged
from tests.server.fuzzing import PHASES, Findings, fuzz
from tests.server.hostile import OPTIONS, SMALL_VIDEOS, memory_bytes, send_picture
from tests.server.served import serve
from tests.server.test_weights import DAMAGES, SHARDED, serve_damaged

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of, write_demo

KEY = "k" * 20


class Extent(NamedTuple):
    """How much is sent: requests from the description, in rounds of so many examples of each call; every n-th damaged
    picture; checkpoints with these damages."""

    num_cases: int
    phases: Sequence[str] = PHASES
    num_examples: int = 40
    every_picture: int = 1
    damages: Sequence[str] = tuple(DAMAGES)


SELF_TEST = Extent(1, ("examples", "fuzzing"), 1, 50, tuple(DAMAGES)[:1])


def described(folder: Path, checkpoint: Path, seed: int, extent: Extent) -> tuple[list[str], list[str]]:
    """Requests made from the description: rows of a table, and what failed."""
    found = Findings([], [])
    with serve(folder, checkpoint, "--queue-size", 4, "--api-key", f"alice:{KEY}", *OPTIONS, **SMALL_VIDEOS) as server:
        before_bytes = memory_bytes(server.process.pid, "VmRSS")
        phases = extent.phases
        while len(found.answers) < extent.num_cases:
            answers, failures = fuzz(server.url, KEY, seed, extent.num_examples, phases)
            found = Findings(found.answers + answers, found.failures + failures)
            phases, seed = ("fuzzing", "stateful"), seed + 1  # the others send the same each time
        grown_bytes = memory_bytes(server.process.pid, "VmHWM") - before_bytes
        assert server.process.poll() is None
    statuses = ", ".join(f"{status}: {count:,}" for status, count in found.statuses().items())
    row = [f"{len(found.answers):,} requests made from the description", statuses, len(found.failures)]
    return [line(*row, *times(found.seconds()), f"{grown_bytes / 1e6:.0f}")], found.failures


def pictures(folder: Path, checkpoint: Path, seed: int, extent: Extent) -> tuple[list[str], list[str]]:
    """Damaged pictures: rows of a table, and what failed."""
    sent = damaged(seed)[:: extent.every_picture]
    answers, failures = [], []
    with serve(folder, checkpoint, *OPTIONS, **SMALL_VIDEOS) as server:
        before_bytes = memory_bytes(server.process.pid, "VmRSS")
        for number, picture in enumerate(sent):
            answer = send_picture(server.port, picture.content, as_url=bool(number % 2))
            answers.append(answer)
            fates = ("taken" if answer.status == 200 else "refused", "either")
            if answer.status not in (200, 400) or picture.fate not in fates:
                failures.append(f"{picture.name}: {answer.status}, {answer.body[:200]!r}")
        made = [video["id"] for video in server.http.get("/v1/videos?limit=100").json()["data"]]
        for video_id in made:
            server.wait(video_id)
        grown_bytes = memory_bytes(server.process.pid, "VmHWM") - before_bytes
        restarts = sum(replica["restarts"] for replica in server.http.get("/health").json()["replicas"])
        if restarts:
            failures.append(f"workers were restarted {restarts} times")
    num_taken = sum(answer.status == 200 for answer in answers)
    row = [f"{len(sent)} damaged pictures", f"200: {num_taken} (all made), 400: {len(sent) - num_taken}", len(failures)]
    seconds = sorted(answer.seconds for answer in answers)
    return [line(*row, *times(seconds), f"{grown_bytes / 1e6:.0f}")], failures


def weights(folder: Path, checkpoint: Path, sharded: Path, extent: Extent) -> tuple[list[str], list[str]]:
    """Checkpoints that cannot be trusted, one after the other: rows of a table, and what failed."""
    rows, failures = [], []
    for damage in extent.damages:
        place = folder / damage.replace(" ", "-")
        place.mkdir()
        ended = serve_damaged(place, sharded if damage in SHARDED else checkpoint, damage)
        rows.append(f"| {damage} | {ended.code} | {ended.seconds:.1f} |")
        if ended.code != 3 or ended.is_listening:
            failures.append(f"{damage}: {ended.code}, {ended.log[-500:]}")
    return rows, failures


def times(seconds: list[float]) -> tuple[str, str, str]:
    """Median, 99th percentile and longest, of sorted seconds, in milliseconds."""
    picked = statistics.median(seconds), seconds[int(0.99 * len(seconds))], seconds[-1]
    return tuple(f"{1000 * each:.0f}" for each in picked)  # type: ignore[return-value]


def line(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=20_261_124)
    parser.add_argument("--output", type=Path, help="folder for fuzz.md")
    add_self_test(parser)
    add_checkpoint(parser)
    options = parser.parse_args()
    extent = SELF_TEST if options.self_test else Extent(options.cases)
    with tempfile.TemporaryDirectory() as name, demo_checkpoint("tiny", options.checkpoint) as checkpoint:
        folder = Path(name)
        if SHARDED.intersection(extent.damages):
            write_demo(folder / "sharded", "tiny", "--shard-megabytes", "2")
        for place in ("described", "pictures", "weights"):
            (folder / place).mkdir()
        asked, wrong = described(folder / "described", checkpoint, options.seed, extent)
        sent, more = pictures(folder / "pictures", checkpoint, options.seed, extent)
        read, still_more = weights(folder / "weights", checkpoint, folder / "sharded", extent)
        name_of_checkpoint = name_of(checkpoint)
    failures = wrong + more + still_more
    told = conditions() | {"checkpoint": name_of_checkpoint, "seed": options.seed}
    told |= {"load": f"{os.getloadavg()[1]:.1f} (5 min)"}
    report = [
        "# Requests that nobody should send",
        "",
        *(f"- {name}: {value}" for name, value in told.items()),
        "",
        "| sent | answered | wrong answers | median, ms | p99, ms | longest, ms | more memory, MB |",
        "|---|---|---:|---:|---:|---:|---:|",
        *asked,
        *sent,
        "",
        "Calls that wait for a video (sync, events) are left out of the times. 501 is the answer to an edit, 504 that",
        "to a synchronous call whose own `timeout_seconds` is over; both are described. Memory is that of the API",
        "process.",
        "",
        "| `ringlight serve` on a checkpoint with | exit code | after, s |",
        "|---|---:|---:|",
        *read,
        *(["", "## What was wrong", "", *(f"- {failure}" for failure in failures)] if failures else []),
    ]
    print("\n".join(report))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "fuzz.md").write_text("\n".join(report) + "\n")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
