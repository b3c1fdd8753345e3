"""RayCluster: what a Ray cluster says of itself, asked over the raylet of this machine."""

from __future__ import annotations

import signal
import threading

import msgspec
import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import available_resources_per_node, state
from ray._private.worker import global_worker
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringlight.core.cluster import ClusterConfig
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting, WorkerError
from ringlight.engine.launch.ray.placement import Need, Node
from ringlight.engine.machine import Host, cards_here, this_host
from ringlight.engine.network import knock

AUTO = "auto"
ASK_SECONDS = 60.0  # until a node tells what it has, which may have to start a process first


class RayCluster:
    """Cluster that this process belongs to. The connection stays until the process ends; others may use it too."""

    def __init__(self, config: ClusterConfig) -> None:
        """Connect, unless this process is connected. Raises InvalidSetting."""
        if not ray.is_initialized():
            _connect(config.ray_address)

    @property
    def own_address(self) -> str:
        """Address of this machine, as the other nodes know it."""
        here = ray.get_runtime_context().get_node_id()
        return next(node.address for node in self.nodes() if node.id == here)

    def nodes(self) -> list[Node]:
        """The nodes that are alive, as far as Ray has noticed."""
        free = available_resources_per_node()
        return [
            Node(
                id=node["NodeID"],
                address=node["NodeManagerAddress"],
                total=node["Resources"],
                free=free[node["NodeID"]],
            )
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] in free
        ]

    def may_grow(self) -> bool:
        """Whether an autoscaler has said what it could add."""
        return bool(state.get_max_resources_from_cluster_config())

    def may_have(self, resource: str) -> bool:
        """Whether an autoscaler could add some of it."""
        return bool((state.get_max_resources_from_cluster_config() or {}).get(resource))

    def host(self, config: EngineConfig, need: Need) -> Host | None:
        """Facts about the node that could host the most ranks; None if no node could host any.

        Raises WorkerError where it does not say so.
        """
        able = [node for node in self.nodes() if need.room(node.total)]
        if not able:
            return None
        node = max(able, key=lambda node: need.room(node.total))
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(describe)
        try:
            told = ray.get(ask.remote(msgspec.json.encode(config), int(node.total.get("GPU", 0))), timeout=ASK_SECONDS)
        except (RayError, TimeoutError) as error:
            *_, said = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerError(f"node {node.address} of the cluster does not tell what it has: {said}") from None
        return msgspec.json.decode(told, type=Host)


def describe(config: bytes, num_cards: int) -> bytes:
    """Describe the node that this runs on, as this machine is described, without torch.

    Ray gives away `num_cards` of its cards, and hides all from a task that has asked for none.
    """
    asked = msgspec.json.decode(config, type=EngineConfig)
    found = cards_here(asked)
    host = msgspec.structs.replace(this_host(asked), cards=found if found is None else found[:num_cards])
    return msgspec.json.encode(host)


def _connect(address: str) -> None:
    """Connect to a cluster. Raises InvalidSetting if it does not exist, or does not let us in."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if (head := canonicalize_bootstrap_address(address)) is None:
            raise ConnectionError("none runs on this machine")
        host, _, port = head.rpartition(":")
        knock(host.strip("[]"), int(port))  # Ray itself would try for minutes
        ray.init(address=head, log_to_driver=False, configure_logging=False)
        global_worker.threads_stopped.set()  # it would print what it notices of nodes, where our results are printed
        global_worker.gcs_error_subscriber.close()
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise InvalidSetting(_refused(address, error)) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # how this process ends is not Ray's to say


def _refused(address: str, error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    where = "--ray-address auto" if address == AUTO else f"--ray-address {address}"
    return (
        f"{where}: no Ray cluster lets us in ({type(error).__name__}: {said}); a raylet of it must run on this machine "
        "(`ray start --address HEAD:6379`), with the cluster's version of Ray, and where the cluster has a token it "
        "must be in RAY_AUTH_TOKEN"
    )
