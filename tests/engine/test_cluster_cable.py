"""A Ray cluster of two network namespaces joined by a cable, and the cable is cut: nobody closes a connection then."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cli.test_nodes import Nodes, inside, ip, namespaces
from tests.engine.processes import ends, wait_until
from tests.engine.ray_nodes import STORE_BYTES, TOKEN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="namespaces need root, and `ip`"),
]

HEAD = "10.213.7.1:6399"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ADDRESS": HEAD,
}
PATIENCE = 90.0


def processes_of(namespace: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=30, check=True)
    return [int(pid) for pid in done.stdout.split()]


def ranks_of(namespace: str) -> list[int]:
    found = []
    for pid in processes_of(namespace):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RankActor.serve"):
                found.append(pid)
    return found


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A node of one CPU in each namespace. All that runs in them is ended in the end."""
    folder = tmp_path_factory.mktemp("r")
    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(namespaces())
        except subprocess.CalledProcessError:
            pytest.skip("namespaces cannot be made here")
        stack.callback(end_all, nodes)
        for rank, where in enumerate((["--head", "--port", "6399", "--include-dashboard=false"], ["--address", HEAD])):
            command = ["start", *where, "--node-ip-address", f"10.213.7.{rank + 1}", "--num-cpus", "1", "--block"]
            sizes = ["--object-store-memory", str(STORE_BYTES), *(["--temp-dir", str(folder)] if rank == 0 else [])]
            ray = [sys.executable, "-m", "ray.scripts.scripts", *command, *sizes]
            log = stack.enter_context((folder / f"log{rank}").open("w"))
            started = subprocess.Popen(
                [*inside(nodes.namespaces[rank]), *ray],
                env=os.environ | ENVIRONMENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(started.wait)
            stack.callback(started.kill)
            wait_until(partial(runs, folder / f"log{rank}"), PATIENCE)
        yield nodes


def runs(log: Path) -> bool:
    """Whether a node has begun, by what it says."""
    return "Ray runtime started" in log.read_text()


def end_all(nodes: Nodes) -> None:
    for pid in [pid for namespace in nodes.namespaces for pid in processes_of(namespace)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_cut_cable_is_noticed_on_both_sides(cluster: Nodes, tiny: Path, tmp_path: Path) -> None:
    """Long before Ray does, which takes a minute. The rank beyond it ends by itself."""
    film = ["--prompt", "a cat", "--size", "256x160", "--num-frames", "5", "--num-inference-steps", "1000"]
    flags = ["--engine", "ray", "--num-gpus", "2", "--num-threads", "1", "--watchdog-timeout", "2", *film]
    program = "from ringlight.cli.main import main; main()"
    command = [sys.executable, "-c", program, "generate", "--model-path", str(tiny), *flags]
    with subprocess.Popen(
        [*inside(cluster.namespaces[0]), *command, "--output", str(tmp_path / "film.mp4")],
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as generate:
        try:
            assert generate.stderr is not None
            assert any("Denoising" in line for line in generate.stderr)
            here, beyond = (ranks_of(namespace) for namespace in cluster.namespaces)
            assert (len(here), len(beyond)) == (1, 1)
            ip("-n", cluster.cable, "link", "set", "cable", "down")
            assert generate.wait(PATIENCE) == 4
            *_, said = generate.stderr.read().splitlines()
            assert re.match(r"ringlight: worker_error: .*(is lost|has not been heard of)", said), said
            assert ends(beyond[0]) and ends(here[0])
        finally:
            generate.kill()
    assert list(tmp_path.iterdir()) == []
