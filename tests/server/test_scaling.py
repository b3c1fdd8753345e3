"""A server whose replicas come and go: asleep, woken by a video, two for a queue, and nobody when all is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.processes import is_alive, wait_until
from tests.server.served import Served, serve
from tests.server.test_replicas import replicas, workers

pytestmark = pytest.mark.slow  # a real server with several workers

LONG = {"num_inference_steps": 1000, "num_frames": 17, "size": "256x160"}


@pytest.fixture
def elastic(tiny: Path, tmp_path: Path) -> Iterator[Served]:
    options = ("--num-replicas", "0..2", "--scale-up-wait", 0.01, "--scale-down-idle", 0.5, "--drain-timeout", 0)
    with serve(tmp_path, tiny, *options, "--no-warm-up") as server:  # an elastic one is ready where nobody is there
        yield server


def statuses(server: Served) -> list[str]:
    return [status for status, _ in replicas(server)]


def counts(server: Served) -> list[int]:
    """How many replicas are wanted, ready and pending."""
    health = server.http.get("/health").json()
    return [health[f"replicas_{name}"] for name in ("wanted", "ready", "pending")]


def test_replicas_come_with_work_and_go_with_it(elastic: Served) -> None:
    asleep = elastic.http.get("/readyz")
    assert (asleep.status_code, asleep.json()["status"]) == (200, "asleep")
    assert "the next video waits until a replica has started" in asleep.json()["message"]
    assert (workers(elastic), counts(elastic)) == ([], [0, 0, 0])
    first = elastic.create(**LONG)["id"]
    wait_until(lambda: statuses(elastic) == ["busy"])
    ready = elastic.http.get("/readyz").json()
    assert ready["status"] == "ready"
    wait_until(lambda: (elastic.get(first)["step"] or 0) > 1)
    second = elastic.create(**LONG)["id"]
    wait_until(lambda: len(workers(elastic)) == 2)
    os.kill(workers(elastic)[1], signal.SIGKILL)  # while it starts, or just after
    wait_until(lambda: statuses(elastic) == ["busy", "busy"])
    assert counts(elastic) == [2, 2, 0]
    text = elastic.http.get("/metrics").text
    assert 'ringlight_replicas{state="busy"} 2.0' in text
    assert "ringlight_replicas_wanted 2.0" in text
    pids = workers(elastic)
    for job in (first, second):
        assert elastic.http.post(f"/v1/videos/{job}/cancel").status_code == 200
        elastic.wait(job, "failed")
    wait_until(lambda: elastic.http.get("/readyz").json()["status"] == "asleep")
    wait_until(lambda: not workers(elastic))
    assert not any(map(is_alive, pids))
    assert "which takes about" in elastic.http.get("/readyz").json()["message"]
    assert elastic.completed()["status"] == "completed"  # it wakes again


def test_a_server_that_is_stopped_while_a_replica_starts_leaves_nobody(elastic: Served) -> None:
    elastic.create(**LONG)
    wait_until(lambda: workers(elastic))
    pids = workers(elastic)
    assert elastic.stop() == 0
    assert not any(map(is_alive, pids))
    assert "Traceback" not in elastic.log
