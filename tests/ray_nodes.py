"""A real Ray of three nodes on this machine: a head that computes nothing, and two nodes of one core each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 80 * 2**20  # Ray takes no less
TOKEN = "0123456789abcdef" * 2


class RayNodes:
    """The cluster: where it is, and what a process needs in its environment to be let in."""

    def __init__(self, folder: Path) -> None:
        """Its sockets and logs are to lie in `folder`. This process and those that it starts are let in from now on."""
        self.address = ""
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        os.environ |= self.environment
        from ray.cluster_utils import Cluster  # here, for it takes a second

        _read_token_anew()
        self._cluster = Cluster()
        self._nodes: dict[str, Any] = {}
        self._folder = folder / "ray"  # where processes of Ray look for it
        self._folder.mkdir()

    def start(self) -> None:
        """Start a head that computes nothing, and two nodes of one core each; returns when they are there."""
        self.add_node(num_cpus=0)
        self.address = str(self._cluster.address)
        for _ in range(2):
            self.add_node(num_cpus=1)

    def add_node(self, num_cpus: int, variables: Mapping[str, str] | None = None) -> str:
        """Start one more, with these variables for all that it starts; its id. From the main thread alone."""
        node = self._cluster.add_node(
            num_cpus=num_cpus,
            env_vars=dict(variables or {}),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            temp_dir=str(self._folder),
        )
        self._nodes[node.node_id] = node
        return str(node.node_id)

    def remove_node(self, node_id: str) -> None:
        """End a node's processes; returns when they have ended."""
        self._cluster.remove_node(self._nodes.pop(node_id))

    def close(self) -> None:
        """End every process of it."""
        self._cluster.shutdown()
        for name in self.environment:
            os.environ.pop(name, None)
        _read_token_anew()


def _read_token_anew() -> None:
    """Have Ray, which keeps what the environment said when it was imported, look at it again."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def running_ray() -> Iterator[RayNodes]:
    """A cluster that ends with the block, and its files with it."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a socket's path may have 107 characters
        nodes = RayNodes(Path(folder))
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.close()


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayNodes]:
    with running_ray() as nodes:
        yield nodes
