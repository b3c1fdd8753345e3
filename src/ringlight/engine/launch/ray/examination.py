"""A cluster, asked node by node: what each is, and whether ranks there could reach an engine here."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import ray
import ray.cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringlight.core.config import EngineConfig
from ringlight.core.plain import plain
from ringlight.engine.launch.ray import on_node
from ringlight.engine.launch.ray.cluster import RayCluster
from ringlight.engine.launch.ray.on_node import NodeAnswer

NODE_SECONDS = 60.0  # for a process to start on a node that has other things to do, and to import what it needs


class Examination(NamedTuple):
    """Answers of a cluster: its address, the host that nodes connected to, the facts of this process and of nodes."""

    address: str
    door_host: str
    here: Mapping[str, str]
    nodes: Sequence[NodeAnswer]


def examine_cluster(config: EngineConfig, packages: tuple[str, ...]) -> Examination:
    """Ask every node. Takes some seconds: each starts a process. Raises InvalidSetting where no cluster lets us in."""
    cluster = RayCluster(config.cluster)
    ray.cloudpickle.register_pickle_by_value(on_node)  # a node may have another Ringlight, or none
    ask = ray.remote(num_cpus=0, max_retries=0)(on_node.examine_node)
    with _opened_door(cluster.own_address) as (door, word):
        question = (door, word, packages, (config.model_path, config.model_family))
        here = on_node.examine_node(*question)
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked[ask.options(scheduling_strategy=there).remote(*question)] = node
        answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=NODE_SECONDS)
    nodes = [_answer(node, reference, reference in answered) for reference, node in asked.items()]
    address = str(ray.get_runtime_context().gcs_address)
    return Examination(address, door[0], here, sorted(nodes, key=lambda node: node.name))


@contextmanager
def _opened_door(host: str) -> Iterator[tuple[tuple[str, int], str]]:
    """Listen at an address of this machine, as an engine does, and echo what comes; yields it, and a word to send."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.create_server((host, 0), family=family)) as listener:
        answering = threading.Thread(target=_echo, args=(listener,))
        answering.start()
        try:
            yield (host, listener.getsockname()[1]), secrets.token_hex(16)
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # else the thread waits for ever
            answering.join()


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            other, _ = listener.accept()
        except OSError:  # it is shut
            return
        with other:
            other.settimeout(on_node.KNOCK_SECONDS)
            try:
                other.sendall(other.recv(1024))
            except OSError:  # a stranger who says nothing, or went away
                continue


def _answer(node: Mapping[str, Any], reference: Any, has_answered: bool) -> NodeAnswer:
    name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"
    told, fault = {}, f"no answer within {plain(NODE_SECONDS)} s"
    if has_answered:
        try:
            told, fault = ray.get(reference), ""
        except RayError as error:
            fault = str(error).strip().splitlines()[-1]
    return NodeAnswer(name, node["Resources"], told, fault)
