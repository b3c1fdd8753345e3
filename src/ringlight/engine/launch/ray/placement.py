"""Placement: over how many nodes the ranks of a replica go, and what is said where there is no room for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

Resources = Mapping[str, float]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is alive, what it has of each resource, and what of that is free."""

    id: str
    address: str
    total: dict[str, float]
    free: dict[str, float]

    def free_of(self, names: Iterable[str]) -> dict[str, float]:
        """Free amounts of these resources."""
        return {name: self.free.get(name, 0.0) for name in names}


class Shape(msgspec.Struct, frozen=True):
    """`num_nodes` nodes with `num_local` ranks each."""

    num_nodes: int
    num_local: int


class Need(msgspec.Struct, frozen=True):
    """Resources of a replica: a number of ranks, each with these resources of its node."""

    num_ranks: int
    each: dict[str, float]

    def room(self, resources: Resources) -> int:
        """Number of ranks that these resources are enough for."""
        return min(int(resources.get(name, 0.0) / amount + 1e-6) for name, amount in self.each.items())

    def shape(self, nodes: Iterable[Node]) -> Shape | None:
        """Find the fewest nodes whose resources, free or not, are enough for an equal share each; None if none are."""
        rooms = [self.room(node.total) for node in nodes]
        for num_nodes in range(1, self.num_ranks + 1):
            num_local, left = divmod(self.num_ranks, num_nodes)
            if not left and sum(room >= num_local for room in rooms) >= num_nodes:
                return Shape(num_nodes, num_local)
        return None

    def replicas(self, nodes: Iterable[Resources], shape: Shape) -> int:
        """Number of replicas of this shape that the resources of these nodes are enough for."""
        shares = sorted((self.room(node) // shape.num_local for node in nodes), reverse=True)
        found = 0
        while len(shares) >= shape.num_nodes and shares[shape.num_nodes - 1]:
            for index in range(shape.num_nodes):
                shares[index] -= 1
            shares.sort(reverse=True)
            found += 1
        return found

    def bundles(self, shape: Shape) -> list[dict[str, float]]:
        """Resources of each node, as placement groups take them."""
        return [{name: shape.num_local * amount for name, amount in self.each.items()}] * shape.num_nodes

    def told(self, shape: Shape | None) -> str:
        """Needs of a replica of this shape, in words."""
        ranks = f"{self.num_ranks} rank{'s' if self.num_ranks > 1 else ''}"
        over = "" if shape is None or shape.num_nodes == 1 else f" on {shape.num_nodes} nodes"
        return f"{ranks}{over} with {amounts(self.each)}{' each' if self.num_ranks > 1 else ''}"

    def lacking(self, nodes: Sequence[Node], shape: Shape | None, may_grow: bool) -> str:
        """Message on a replica for which there is no room: what it wants, what is free, and what to do."""
        able = [node for node in nodes if any(node.total.get(name) for name in self.each)]
        free = "; ".join(f"{amounts(node.free_of(self.each))} on {node.address}" for node in able)
        said = f"the cluster has no room for {self.told(shape)}; free: {free or 'no node'}"
        if shape is None and sum(self.room(node.total) for node in nodes) >= self.num_ranks:
            rooms = ", ".join(str(self.room(node.total)) for node in nodes if self.room(node.total))
            said += f". Each node has equally many ranks, and these have room for {rooms}: ask for a number that goes"
            return f"{said} evenly into them (--num-gpus)"
        if may_grow:
            return f"{said}. The cluster may grow: its autoscaler is asked for it"
        return f"{said}. It does not grow by itself: add a node, or end what has them"


def amounts(resources: Resources) -> str:
    """Amounts of resources in words: 1 GPU and 2 CPU."""
    *first, last = (f"{amount:g} {name}" for name, amount in resources.items())
    return f"{', '.join(first)} and {last}" if first else last
