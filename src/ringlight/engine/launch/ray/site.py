"""RaySite: a Ray cluster as the place of an engine's ranks, and RayReplicas, which come from it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.request import RequestLimits
from ringlight.core.stored_network import require_whole
from ringlight.engine.launch.ray.cluster import RayCluster
from ringlight.engine.launch.ray.launcher import RayLauncher
from ringlight.engine.launch.ray.placement import Need, Shape
from ringlight.engine.machine import machine_of
from ringlight.engine.ranked import RankedReplica
from ringlight.engine.replica import Replica
from ringlight.families.model import ModelSpec
from ringlight.planner.machine import Machine


class RaySite:
    """The nodes of a cluster. What plans are made for is as it was when this was made."""

    def __init__(self, config: EngineConfig) -> None:
        """Connect, and look at what there is. Raises InvalidSetting, WorkerError."""
        self._cluster = RayCluster(config.cluster)
        nodes = self._cluster.nodes()
        has_cards = any(node.total.get("GPU") for node in nodes) or self._cluster.may_have("GPU")
        device = ("cuda" if has_cards else "cpu") if config.device == "auto" else config.device
        # On a CPU a rank computes on what it has reserved, and no other replica takes that.
        num_threads = config.num_threads or (1 if device == "cpu" else 0)
        self._config = msgspec.structs.replace(config, device=device, num_threads=num_threads)
        on_device = {"CPU": float(num_threads)} if device == "cpu" else {"GPU": 1.0, "CPU": 1.0}
        self._need = Need(config.asked_layout.num_ranks, on_device | config.cluster.resources)
        self._shape = self._need.shape(nodes) or Shape(1, self._need.num_ranks)
        self._host = self._cluster.host(self._config, self._need)

    @property
    def num_nodes(self) -> int:
        return self._shape.num_nodes

    def machine(self, spec: ModelSpec, num_replicas: int) -> Machine | None:
        if self._host is None:
            return None
        sharing = self._replicas_on_a_node(num_replicas)
        return machine_of(self._host, self._config, spec, self._shape.num_local, sharing, self.num_nodes)

    def num_sharing(self, num_replicas: int) -> int:
        return self._replicas_on_a_node(num_replicas) * self._shape.num_local

    def room(self) -> int:
        return max(1, self._need.replicas([node.free for node in self._cluster.nodes()], self._shape))

    def source(
        self, limits: RequestLimits, files: Checkpoint, layout: ParallelLayout, most: int, is_placed: bool
    ) -> RayReplicas:
        require_whole(files, with_weights=False)  # which lie on the nodes, and are looked at there
        path = self._config.model_path
        config = msgspec.structs.replace(
            self._config,
            asked_layout=AskedLayout.of(layout),
            model_path=str(Path(path).absolute()) if os.path.lexists(path) else path,
        )
        return RayReplicas(config, limits, self._cluster, self._need, is_placed)

    def _replicas_on_a_node(self, num_replicas: int) -> int:
        """Number of replicas, of so many, that can share a node, as far as one is known."""
        most = max((self._need.room(node.total) for node in self._cluster.nodes()), default=0) // self._shape.num_local
        return max(1, min(num_replicas, most))


class RayReplicas:
    """Replicas on the nodes of a cluster. What has no room is tried again, and says what is missing."""

    def __init__(
        self, config: EngineConfig, limits: RequestLimits, cluster: RayCluster, need: Need, is_placed: bool
    ) -> None:
        self._config = config
        self._limits = limits
        self._cluster = cluster
        self._need = need
        self._is_placed = is_placed

    def make(self, number: int) -> Replica:
        launcher = RayLauncher(self._config, self._limits, self._cluster, self._need, self._is_placed)
        return RankedReplica(self._config, launcher)

    def close(self) -> None:
        """Do nothing: the replicas share nothing that outlives them."""
