"""Meeting: ranks come together at a store, and go on only if they were all told the same.

Each rank compares what it was told with what rank 0 was told, and if that agrees lays a claim to its number, which it
renews as long as it waits: a claim that no longer changes is of a rank that has ended. Rank 0 gives the verdict.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from uuid import uuid4

import msgspec
from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

from ringlight.core.errors import InvalidLayout, WorkerError
from ringlight.core.messages import NodesAwaited, RankPlace
from ringlight.parallel.collective import collective
from ringlight.parallel.pulse import beat_key
from ringlight.parallel.roster import Roster, node_at

TERMS, REFUSAL, VERDICT, READ = "terms", "refusal", "verdict", "read"
ROUND_SECONDS = 0.1
FRESH_ROUNDS = 10  # since its last change, and a claim is of a rank that waits
STALE_ROUNDS = 50  # without a change, and a claim may be taken
TELL_SECONDS = 10.0
READ_SECONDS = 2.0

Tell = Callable[[NodesAwaited], None]


class Claim(msgspec.Struct, frozen=True):
    """Claim of a rank that is there. `token` is its process's own, `renewed` counts."""

    token: str
    address: str
    renewed: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """Last node that was refused, and why. `is_odd`: its settings differ; it has not merely come twice."""

    node_rank: int
    who: str
    why: str
    is_odd: bool


class Verdict(msgspec.Struct, frozen=True):
    """Ranks that are to continue together, or the reason why none is to."""

    claims: list[Claim]
    refusal: str = ""


@collective
def meet(
    store: TCPStore, place: RankPlace, terms: Mapping[str, str], seconds: float, refuses_alone: bool, tell: Tell
) -> Roster:
    """Return when all ranks are there with the `terms` of rank 0, before any of them waits for another's messages.

    `tell` hears which nodes are waited for, at once and now and then. Raises InvalidLayout on a rank that differs, and
    unless that `refuses_alone` on all that are there; also on a rank that is there already. Raises WorkerError when
    some do not come in time, or rank 0 goes.
    """
    try:
        return _Meeting(store, place, time.monotonic() + seconds, refuses_alone, tell).hold(terms)
    except DistError:  # the store is gone, and nobody else keeps it
        raise WorkerError(f"{node_at(0, place.host)} is lost: it has ended while its ranks met") from None


class _Meeting:
    def __init__(self, store: TCPStore, place: RankPlace, deadline: float, refuses_alone: bool, tell: Tell) -> None:
        self._store = store
        self._place = place
        self._deadline = deadline
        self._refuses_alone = refuses_alone
        self._tell = tell
        self._keys = [f"here/{rank}" for rank in range(place.num_ranks)]
        self._key = f"here/{place.rank}"
        self._claim = Claim(uuid4().hex, place.address)
        self._seen = [b""] * place.num_ranks
        self._unchanged = [0] * place.num_ranks
        self._told: NodesAwaited | None = None
        self._told_at = 0.0

    def hold(self, terms: Mapping[str, str]) -> Roster:
        if self._place.rank == 0:
            for key in (*self._keys, *map(beat_key, range(self._place.num_ranks)), REFUSAL):
                self._store.set(key, "")
            self._store.set(TERMS, json.dumps(dict(terms)))
        while not self._store.check([TERMS]):
            self._wait_a_round()
        self._compare(terms)
        self._lay_claim()
        while not self._store.check([VERDICT]):
            self._renew_claim()
            present = self._look()
            if self._place.rank == 0:
                self._judge(present)
            self._say_who_is_missing(present)
            self._wait_a_round()
        return self._obey(msgspec.json.decode(self._store.get(VERDICT), type=Verdict))

    def _compare(self, mine: Mapping[str, str]) -> None:
        theirs: dict[str, str] = json.loads(self._store.get(TERMS))
        rank = self._place.rank
        differing = [name for name in mine if mine[name] != theirs.get(name)]
        if differing:
            said = "; ".join(f"{name} {theirs.get(name)} on rank 0, {mine[name]} on rank {rank}" for name in differing)
            self._refuse(f"ranks disagree about {said}; give every node the same checkpoint and flags", is_odd=True)

    def _lay_claim(self) -> None:
        """Take this rank's number, also from a process that had it and has ended."""
        mine = msgspec.json.encode(self._claim)
        found = self._store.compare_set(self._key, "", mine.decode())
        rounds = 0
        while found != mine:
            if self._store.check([VERDICT]):
                self._outlast_group()
            elif (now := self._store.get(self._key)) != found:
                self._refuse_second()
            elif rounds == STALE_ROUNDS:
                found = self._store.compare_set(self._key, now.decode(), mine.decode())
            rounds += 1
            self._wait_a_round()

    def _outlast_group(self) -> None:
        """Refuse to start, because the group has begun without this process.

        If the one that has its number lives, this came second; else the others have not yet noticed, and will end.
        Always raises.
        """
        key = beat_key(self._place.rank)
        heard = self._store.get(key)
        while self._store.get(key) == heard:
            self._tell_now(NodesAwaited(nodes=[0], remark="its last group has not ended yet"))
            self._wait_a_round()
        self._refuse_second()

    def _refuse_second(self) -> None:
        rank = self._place.rank
        self._refuse(f"rank {rank} is there already; give every node a --node-rank of its own", is_odd=False)

    def _refuse(self, why: str, is_odd: bool) -> None:
        place = self._place
        who = node_at(place.node_rank, place.address) if place.num_nodes > 1 else f"rank {place.rank}"
        self._store.set(REFUSAL, msgspec.json.encode(Refusal(place.node_rank, who, why, is_odd)).decode())
        raise InvalidLayout(why)

    def _renew_claim(self) -> None:
        before, renewed = self._claim, self._claim.renewed + 1
        self._claim = msgspec.structs.replace(before, renewed=renewed)
        mine = msgspec.json.encode(self._claim)
        if self._store.compare_set(self._key, msgspec.json.encode(before).decode(), mine.decode()) != mine:
            raise WorkerError(f"rank {self._place.rank} was silent for so long that another has taken its place")

    def _look(self) -> list[Claim | None]:
        """Claims of the ranks that are there, by rank."""
        found: list[Claim | None] = []
        for rank, seen in enumerate(self._store.multi_get(self._keys)):
            self._unchanged[rank] = self._unchanged[rank] + 1 if seen == self._seen[rank] else 0
            self._seen[rank] = seen
            is_there = seen and self._unchanged[rank] < FRESH_ROUNDS
            found.append(msgspec.json.decode(seen, type=Claim) if is_there else None)
        return found

    def _judge(self, present: list[Claim | None]) -> None:
        refusal, there = self._refusal(), [claim for claim in present if claim is not None]
        if refusal is not None and refusal.is_odd and not self._refuses_alone:
            self._settle(Verdict([], refusal.why))
            deadline = time.monotonic() + READ_SECONDS  # once this process has ended there is no store to read it in
            while self._store.add(READ, 0) < len(there) - 1 and time.monotonic() < deadline:
                time.sleep(ROUND_SECONDS)
        elif len(there) == len(present):
            self._settle(Verdict(there))

    def _settle(self, verdict: Verdict) -> None:
        self._store.set(VERDICT, msgspec.json.encode(verdict).decode())

    def _obey(self, verdict: Verdict) -> Roster:
        if verdict.refusal:
            self._store.add(READ, int(self._place.rank > 0))
            raise InvalidLayout(verdict.refusal)
        if verdict.claims[self._place.rank].token != self._claim.token:
            raise WorkerError(f"the ranks have gone on without rank {self._place.rank}, which was silent for too long")
        self._tell_now(NodesAwaited(nodes=[]))
        return Roster(tuple(claim.address for claim in verdict.claims), self._place.num_local)

    def _refusal(self) -> Refusal | None:
        said = self._store.get(REFUSAL)
        return msgspec.json.decode(said, type=Refusal) if said else None

    def _say_who_is_missing(self, present: list[Claim | None]) -> None:
        missing = sorted({rank // self._place.num_local for rank, claim in enumerate(present) if claim is None})
        refusal, remark = self._refusal(), ""
        if refusal is not None and (refusal.node_rank in missing or not refusal.is_odd):
            remark = f"{refusal.who} was refused: {refusal.why}"
        self._tell_now(NodesAwaited(nodes=missing, remark=remark))

    def _tell_now(self, awaited: NodesAwaited) -> None:
        now = time.monotonic()
        if awaited != self._told or now - self._told_at >= TELL_SECONDS:
            self._told, self._told_at = awaited, now
            self._tell(awaited)

    def _wait_a_round(self) -> None:
        if time.monotonic() > self._deadline:
            raise WorkerError("not all ranks have come in time")
        time.sleep(ROUND_SECONDS)
