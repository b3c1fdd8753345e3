"""Two replicas before one queue: they work side by side, and one that dies does not hold up the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.processes import wait_until
from tests.server.served import Served, serve

pytestmark = pytest.mark.slow  # a real server with several workers

LONG = {"num_inference_steps": 1000, "num_frames": 17, "size": "256x160"}


@pytest.fixture
def two(tiny: Path, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path, tiny, "--num-replicas", 2, "--drain-timeout", 0, "--no-warm-up", "--round-sizes") as server:
        wait_until(lambda: [status for status, _ in replicas(server)] == ["ready", "ready"])
        yield server


def replicas(server: Served) -> list[tuple[str, int]]:
    """Status and restarts of each."""
    found = server.http.get("/health").json()["replicas"]
    return [(replica["status"], replica["restarts"]) for replica in found]


def workers(server: Served) -> list[int]:
    """Process ids of the server's own children."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_two_jobs_run_side_by_side_and_the_death_of_one_is_nothing_to_the_other(two: Served) -> None:
    jobs = [two.create(**LONG)["id"] for _ in range(2)]
    wait_until(lambda: all((two.get(job)["step"] or 0) > 2 for job in jobs))
    assert [status for status, _ in replicas(two)] == ["busy", "busy"]
    os.kill(workers(two)[0], signal.SIGKILL)
    wait_until(lambda: sorted(two.get(job)["restarts"] for job in jobs) == [0, 1])
    wait_until(lambda: [status for status, _ in replicas(two)] == ["busy", "busy"])
    assert sorted(restarts for _, restarts in replicas(two)) == [0, 1]
    for job in jobs:
        assert two.http.post(f"/v1/videos/{job}/cancel").status_code == 200
        two.wait(job, "failed")
    made = two.completed(size="70x100")  # which this server rounds
    assert (made["size"], made["status"]) == ("64x96", "completed")
    assert [(each["code"], each["given"], each["used"]) for each in made["warnings"]] == [
        ("size_rounded", "70x100", "64x96")
    ]
