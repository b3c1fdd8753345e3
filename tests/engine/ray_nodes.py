"""A Ray cluster of three raylets on this machine: a head without CPUs, and nodes that ranks can be placed on."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes import is_alive

STORE_BYTES = 80 * 2**20  # Ray's least
TOKEN = "a-token-that-only-these-tests-know-of-0123456789"


class RayNodes:
    """The cluster, and its nodes but for the head."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, num_cpus: int = 1, **variables: str) -> Any:
        """One more, with these in its environment. Call it from the main thread: Ray sets handlers of signals."""
        node = self._cluster.add_node(num_cpus=num_cpus, object_store_memory=STORE_BYTES, env_vars=variables)
        self.nodes.append(node)
        return node

    def kill_raylet_of(self, pid: int) -> Any:
        """Kill the raylet that a rank is the child of, and nothing else. Returns its node."""
        raylet = parent_of(pid)
        os.kill(raylet, signal.SIGKILL)
        return next(node for node in self.nodes if raylet_of(node) == raylet)

    def bring_back(self, node: Any) -> Any:
        """A node of one CPU in the place of one whose raylet was killed; what else ran there for Ray is ended. Call it
        from the main thread."""
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        return self.add()

    def ranks(self) -> list[int]:
        """The process ids of all ranks on its nodes."""
        raylets = {raylet_of(node) for node in self.nodes}
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if is_rank(pid, raylets)]


def raylet_of(node: Any) -> int:
    """The process id of a node's raylet, also of one that has ended."""
    return int(node.all_processes["raylet"][0].process.pid)


def is_rank(pid: int, raylets: Collection[int]) -> bool:
    """Whether this is a rank that one of these has started."""
    try:
        called = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RankActor")
        return called and is_alive(pid) and parent_of(pid) in raylets
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    """A process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def ray_cluster(*num_cpus: int) -> Iterator[RayNodes]:
    """A head without CPUs and a node with each of so many, ended with all their processes in the end. It has a token
    and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("RAY_AUTH_MODE", "token"),
            ("RAY_AUTH_TOKEN", TOKEN),
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_TMPDIR", folder),
        ):
            patch.setenv(name, value)
        import ray  # here: only these tests need it
        from ray.cluster_utils import Cluster

        _read_token_anew()
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES},
        )
        try:
            nodes = RayNodes(cluster)
            for count in num_cpus:
                nodes.add(count)
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes
        finally:
            ray.shutdown()
            cluster.shutdown()
            patch.undo()
            _read_token_anew()


def _read_token_anew() -> None:
    """Have Ray, which keeps what the environment said when it was imported, look at it again."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
