"""A Ray cluster, asked node by node. Imported only where somebody asks for it: Ray need not be installed."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import ray
import ray.cloudpickle
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringlight.cli import on_node
from ringlight.cli.diagnosis import Facts, Finding
from ringlight.cli.node_checks import PACKAGES, Check, NodeAnswer, facts_of, findings_of, judge
from ringlight.core.plain import plain
from ringlight.engine.network import knock

NODE_SECONDS = 60.0  # for a process to start on a node that has other things to do, and to import what it needs
UNREACHABLE = (
    "run this on a node of the cluster, and name HOST:PORT of its head in --ray-address; where the cluster wants a "
    "token, set RAY_AUTH_MODE=token and the very same RAY_AUTH_TOKEN"
)


def examine_cluster(ray_address: str, model_path: str) -> tuple[Facts, list[Finding]]:
    """Facts of the cluster and of each node, and what is wrong. Takes some seconds: each node starts a process."""
    nodes: list[NodeAnswer] = []
    try:
        with _connected(ray_address) as address, _opened_door() as (door, word):
            here = on_node.examine_node(door, word, PACKAGES, model_path)
            nodes = _ask_nodes(door, word, model_path)
        checks = [Check("address", address), *judge(here, nodes, door[0], model_path)]
    except ConnectionError as error:
        checks = [Check("address", f"{ray_address}: {error}", UNREACHABLE)]
    return facts_of(checks, nodes), [*findings_of(checks)]


@contextmanager
def _connected(ray_address: str) -> Iterator[str]:
    """Be a driver of the cluster; its address. Raises ConnectionError."""
    if ray_address.startswith("ray://"):
        raise ConnectionError("Ray's client sees no nodes and hosts no server")
    host, _, port = ray_address.rpartition(":")
    try:
        if host and port.isdecimal():
            knock(host.strip("[]"), int(port))  # Ray itself would try for a minute
        ray.init(address=ray_address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConnectionError(" ".join(str(error).split())) from None
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


@contextmanager
def _opened_door() -> Iterator[tuple[tuple[str, int], str]]:
    """Listen on this node's address, as an engine does, and send back what comes; the address, and a word to send."""
    host = str(ray.util.get_node_ip_address())
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


def _ask_nodes(door: tuple[str, int], word: str, model_path: str) -> list[NodeAnswer]:
    """Have every node answer, all at once."""
    ray.cloudpickle.register_pickle_by_value(on_node)  # a node may have another Ringlight, or none
    question = ray.remote(num_cpus=0, max_retries=0)(on_node.examine_node)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[question.options(scheduling_strategy=there).remote(door, word, PACKAGES, model_path)] = node
    answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=NODE_SECONDS)
    nodes = [_answer(node, reference, reference in answered) for reference, node in asked.items()]
    return sorted(nodes, key=lambda node: node.name)


def _answer(node: Mapping[str, Any], reference: Any, has_answered: bool) -> NodeAnswer:
    name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"
    told, fault = {}, f"no answer within {plain(NODE_SECONDS)} s"
    if has_answered:
        try:
            told, fault = ray.get(reference), ""
        except ray.exceptions.RayError as error:
            fault = str(error).strip().splitlines()[-1]
    return NodeAnswer(name, node["Resources"], told, fault)
