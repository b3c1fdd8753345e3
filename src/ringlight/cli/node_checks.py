"""Checks of a cluster's nodes by their own facts: what would keep ranks from running, where, and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ringlight.cli.diagnosis import Facts, Finding
from ringlight.core.plain import plain
from ringlight.engine.launch.ray.on_node import NOT_INSTALLED, NodeAnswer

VERSIONS = {  # in the order in which one is the reason of the next, with what to do where nodes differ
    "python": "use one image, or one environment, on all nodes; Ray wants the same Python to the patch level",
    "ray": "use one image, or one environment, on all nodes; Ray wants the same Ray to the patch level",
    "ringlight": "install the same Ringlight on all nodes; ranks with another are refused",
    "torch": "install the same PyTorch on all nodes that host ranks, with the rest of what they need by "
    "pip install 'ringlight[worker]'; ranks with another are refused",
}
PACKAGES = tuple(name for name in VERSIONS if name != "python")
SILENT = "see raylet.out and the free memory of that node: ranks could not be started there either"
OPEN = (
    "whoever reaches the ports of Ray can run programs there: start all nodes with RAY_AUTH_MODE=token and the same "
    "RAY_AUTH_TOKEN"
)
FALSE_CARDS = "start Ray there with --num-gpus as its driver has it, or without; see nvidia-smi on that node"
SHUT = (
    "ranks connect to the server: let every node open connections to {host}, on all ports. Where {host} is not the "
    "address by which others know this machine, start its Ray with --node-ip-address"
)
OTHER_CHECKPOINT = "give every node the same files under the same path"


class Check(NamedTuple):
    """Fact that was checked, its finding, and the remedy if it is wrong."""

    name: str
    said: str
    remedy: str = ""


def judge(here: Mapping[str, str], nodes: Sequence[NodeAnswer], door_host: str) -> Iterator[Check]:
    """Yield all checks of the facts that this process and each node report."""
    told = [node for node in nodes if not node.fault]
    hosts = [node for node in told if node.hosts_ranks]
    yield _check("nodes", _count(nodes), (f"{node.name}: {node.fault}" for node in nodes if node.fault), SILENT)
    yield _check("token", "on", (f"off on {node.name}" for node in told if node.told["token"] == "off"), OPEN)
    for name, remedy in VERSIONS.items():
        if name == "torch":
            yield _torch(here, hosts, remedy)
        else:
            others = (node for node in told if node.told[name] != here[name])
            faults = (f"{here[name]} here, {node.told[name]} on {node.name}" for node in others)
            yield _check(name, f"{here[name]} on all nodes", faults, remedy)
    yield _check("cards", _cards_of(hosts), _false_cards(hosts), FALSE_CARDS)
    shut = (f"{node.name}: {node.told['door_fault']}" for node in told if "door_fault" in node.told)
    yield _check("door", f"all nodes reach {door_host}", shut, SHUT.format(host=door_host))
    if {"model", "model_fault"} & here.keys():
        yield _checkpoint(here, hosts)


def facts_of(checks: Iterable[Check], nodes: Iterable[NodeAnswer], title: str) -> Facts:
    """A line for each check, under a title, and what each node told."""
    facts: Facts = {title: {name: f"{'problem' if remedy else 'ok'}: {said}" for name, said, remedy in checks}}
    for node in nodes:
        told = {"fault": node.fault} if node.fault else node.told
        facts[f"node {node.name}"] = {"counts": _counted(node.counts)} | dict(told)
    return facts


def findings_of(checks: Iterable[Check]) -> Iterator[Finding]:
    """Yield a finding for each check that failed."""
    for name, said, remedy in checks:
        if remedy:
            yield Finding(f"{name}: {said}", remedy)


def _check(name: str, well: str, faults: Iterable[str], remedy: str) -> Check:
    said = "; ".join(faults)
    return Check(name, said, remedy) if said else Check(name, well)


def _torch(here: Mapping[str, str], hosts: Sequence[NodeAnswer], remedy: str) -> Check:
    """Check that all nodes that host ranks have the same PyTorch, which nobody else needs, a server neither."""
    told = {"here": here["torch"]} | {f"on {node.name}": node.told["torch"] for node in hosts}
    first = next((where for where, version in told.items() if version != NOT_INSTALLED), "here")
    faults = (
        f"{told[first]} {first}, {version} {where}"
        for where, version in told.items()
        if where != "here" and (version != told[first] or version == NOT_INSTALLED)
    )
    return _check("torch", f"{told[first]} on all nodes that host ranks", faults, remedy)


def _count(nodes: Sequence[NodeAnswer]) -> str:
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node.counts)
    return f"{len(nodes)}, of which {sum(node.hosts_ranks for node in nodes)} host ranks: {_counted(total)}"


def _counted(counts: Mapping[str, float]) -> str:
    return f"{plain(counts.get('GPU', 0))} GPUs, {plain(counts.get('CPU', 0))} cores"


def _cards_of(hosts: list[NodeAnswer]) -> str:
    names = Counter(name for node in hosts for name in _cards(node))
    return ", ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "none; ranks run on CPUs"


def _false_cards(hosts: list[NodeAnswer]) -> Iterator[str]:
    """Yield nodes for which Ray counts more cards than their driver."""
    for node in hosts:
        count, found = node.counts.get("GPU", 0), len(_cards(node))
        if count > found:
            yield f"{node.name}: Ray counts {plain(count)} GPUs, {node.told.get('cards_fault', f'the driver {found}')}"


def _cards(node: NodeAnswer) -> list[str]:
    return [name for name in node.told.get("cards", "").split(", ") if name]


def _checkpoint(here: Mapping[str, str], hosts: Iterable[NodeAnswer]) -> Check:
    """Check that each node has a server's files, which are all but the weights; weights that are there are compared."""
    told = {"here": here} | {f"on {node.name}": node.told for node in hosts}
    digests = {where: each["checkpoint"] for where, each in told.items() if "checkpoint" in each}
    needed = {where: each for where, each in told.items() if where != "here" or "model_fault" in each}
    faults = [f"{where}: {each['checkpoint_fault']}" for where, each in needed.items() if where not in digests]
    first = next(iter(digests), "")
    faults += [f"{digests[first]} {first}, {each} {where}" for where, each in digests.items() if each != digests[first]]
    well = f"{digests[first]} on all nodes that host ranks" if digests else "no node hosts ranks"
    return _check("checkpoint", well, faults, OTHER_CHECKPOINT)
