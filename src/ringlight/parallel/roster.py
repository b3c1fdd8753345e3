"""Roster: what the ranks of a group are called, for whoever has to look after them."""

from __future__ import annotations

import msgspec


class Roster(msgspec.Struct, frozen=True):
    """The address of each rank's machine, by rank, and how many ranks a machine has."""

    addresses: tuple[str, ...]
    num_local: int

    def lost(self, rank: int, why: str) -> str:
        """Message on a lost rank: with several machines, which of them to look at."""
        if len(self.addresses) == self.num_local:
            return f"rank {rank} {why}"
        return f"{node_at(rank // self.num_local, self.addresses[rank])} is lost: its rank {rank} {why}"


def node_at(node_rank: int, address: str) -> str:
    """Name of a machine."""
    return f"node {node_rank} ({address})"
