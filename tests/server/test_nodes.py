"""A server over two nodes, both on this machine: it says whom it waits for, and ranks that die are there again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.processes import wait_until
from tests.forking import fork_command
from tests.server.served import READY_SECONDS, Served, error_of, free_port

pytestmark = pytest.mark.slow  # a real server with workers of two nodes


@pytest.fixture
def nodes(tiny: Path, tmp_path: Path) -> Iterator[tuple[Served, subprocess.Popen[bytes]]]:
    """The server on node 0, and the process that hosts the ranks of node 1."""
    shared = ["--num-gpus", "2", "--ring-degree", "2", "--nnodes", "2", "--watchdog-timeout", "2", "--no-warm-up"]
    (tmp_path / "settings.yaml").write_text("memory_budget: 400MiB\nlog_format: json\nlimits:\n  max_steps: 90\n")
    shared += ["--config", str(tmp_path / "settings.yaml")]
    address = f"127.0.0.1:{free_port()}"
    shared += ["--dist-init-addr", address, "--num-threads", "1"]
    node_1 = ["serve", "--model-path", tiny, "--node-rank", 1, *shared]
    server = Served(tmp_path, tiny, "--save-seconds", 0.5, *shared)
    try:
        awaited = f"waiting for node 1 of 2 at {address}, "
        wait_until(lambda: awaited in reason(server) and awaited in server.log, READY_SECONDS)
        with (tmp_path / "node_1").open("wb") as log:
            follower = fork_command(node_1, log, log)
        try:
            server.wait_until_ready()
            yield server, follower
        finally:
            follower.kill()
            follower.wait()
    finally:
        server.process.kill()
        server.stop()


def reason(server: Served) -> str:
    """Why it is not ready, as it says itself."""
    try:
        return server.http.get("/readyz").text
    except httpx.TransportError:  # it does not listen yet
        return ""


def test_a_lost_node_joins_again_and_the_video_goes_on(
    nodes: tuple[Served, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    server, follower = nodes
    undisturbed = server.completed(num_inference_steps=60)
    video = server.create(num_inference_steps=60)["id"]
    wait_until(lambda: (server.get(video)["step"] or 0) > 15)
    os.kill(worker_of(follower), signal.SIGKILL)
    assert server.wait(video)["restarts"] == 1
    contents = [server.http.get(f"/v1/videos/{each}/content").content for each in (undisturbed["id"], video)]
    assert contents[0] == contents[1]
    report = server.http.get(f"/v1/videos/{video}/report").json()
    assert report["placement"] is not None, "the budget of the file is both nodes'"
    refused = server.http.post("/v1/videos", json={"prompt": "a cat", "size": "1280x704", "num_frames": 81})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "size")
    assert "the memory budget" in error_of(refused)["message"] and "nearest: " in error_of(refused)["message"]
    os.kill(worker_of(follower), signal.SIGKILL)  # while nothing is made
    wait_until(lambda: "tried again after: node 1 (127.0.0.1) is lost: its rank 1" in reason(server))
    server.wait_until_ready()
    assert "replica-0: the workers are started anew: node 1 (127.0.0.1) is lost: its rank 1" in server.log
    assert server.stop() == 0
    assert follower.wait(30) == 0, "it ends when node 0 has drained"
    lines = (tmp_path / "node_1").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert any("hosting" in each["event"] for each in logged)
    joining = [each["level"] for each in logged if "joining again" in each["event"]]
    assert len(joining) >= 2 and {*joining} == {"error"}


def worker_of(process: subprocess.Popen[bytes]) -> int:
    """The process id of the one rank that a node hosts."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    (pid,) = (int(pid) for task in tasks for pid in (task / "children").read_text().split())
    return pid
