"""Meeting: ranks come together at a store, and go on only if they were all told the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from ringlight.core.errors import InvalidLayout

TERMS, VERDICT, AGREED = "terms", "verdict", "agreed"


def meet(store: TCPStore, rank: int, num_ranks: int, terms: Mapping[str, str], timeout_seconds: float) -> None:
    """Return when all ranks are there with the `terms` of rank 0, before any of them waits for another's messages.

    Raises InvalidLayout on all that are there when one differs or comes twice, RuntimeError when some do not come in
    time.
    """
    if rank == 0:
        store.set(TERMS, json.dumps(dict(terms)))
    patience = timedelta(seconds=timeout_seconds)
    store.wait([TERMS], patience)
    theirs: dict[str, str] = json.loads(store.get(TERMS))
    differing = [name for name in terms if terms[name] != theirs.get(name)]
    if differing:
        said = "; ".join(f"{name} {theirs.get(name)} on rank 0, {terms[name]} on rank {rank}" for name in differing)
        verdict = f"ranks disagree about {said}; give every node the same checkpoint and flags"
        _settle(store, verdict)
        raise InvalidLayout(verdict)
    if store.add(f"here/{rank}", 1) > 1:
        raise InvalidLayout(f"rank {rank} is there already; give every node a --node-rank of its own")
    if store.add("here", 1) == num_ranks:
        _settle(store, AGREED)
    store.wait([VERDICT], patience)
    verdict = store.get(VERDICT).decode()
    if verdict != AGREED:
        raise InvalidLayout(verdict)


def _settle(store: TCPStore, verdict: str) -> None:
    """The first verdict stands."""
    store.compare_set(VERDICT, "", verdict)
