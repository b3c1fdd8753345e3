"""Which job is next, and for whom the running one makes way: one home for the order, without a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Sequence

import msgspec

from ringlight.core.settings import Scheduling

MAKES_WAY_BELOW = 0.8  # of the running one's rest: a job that is hardly shorter is not worth a pause
LEAST_GUARD = 20.0  # below it a line that has grown is first come, first served again

Place = tuple[bool, int, bool, bool]
Key = tuple[Place, float, int]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the order sees it. Seconds are predicted, on its replica; infinite: unknown."""

    key: str
    arrival: int  # a number in the order in which they came
    priority: int = 0  # higher goes first
    is_last: bool = False  # its workers have died twice: it waits until nobody else does
    client: str = ""  # whose share it uses
    rest_seconds: float = math.inf  # of what is left
    whole_seconds: float = math.inf  # alone, from its beginning
    waited_seconds: float = 0.0  # since it came, turns included
    due_seconds: float | None = None  # until its deadline

    @property
    def _due(self) -> float:
        return math.inf if self.due_seconds is None else self.due_seconds


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The order in which replicas take jobs, and when one that runs makes way.

    `shortest`: who is not last, then priority, then clients within their share, then (with a guard) who has waited
    too long, by arrival. Among equals the most deadlines that can be kept are (Moore-Hodgson, doi
    10.1287/mnsc.15.1.102); subject to that the shortest rest goes first (Smith's backward rule, doi
    10.1002/nav.3800030106). Without deadlines, or where all are far, that is shortest rest first. A deadline that
    cannot be kept counts as none. Unknown rests come behind known ones, by arrival.

    `arrival`: who is not last, then priority, then arrival. Nobody makes way.

    With a `guard` whoever has waited so many times its own seconds is not overtaken any more. With several replicas
    before one line a deadline is judged as if each took its part of whatever is ahead. Raises ValueError for a guard
    below LEAST_GUARD.
    """

    scheduling: Scheduling = "shortest"
    pauses: bool = True  # a job may be left for another
    guard: float | None = None
    num_replicas: int = 1
    makes_way_below: float = MAKES_WAY_BELOW

    def __post_init__(self) -> None:
        if self.guard is not None and self.guard < LEAST_GUARD:
            raise ValueError(f"guard={self.guard:g} must be at least {LEAST_GUARD:g} times a job's own seconds")

    def ordered(self, candidates: Sequence[Candidate], over_share: Collection[str] = ()) -> list[Candidate]:
        """Put the next one first. `over_share`: clients that have used more than their share."""

        if all(each.due_seconds is None for each in candidates):
            return sorted(candidates, key=lambda each: self.key(each, over_share))

        def place(each: Candidate) -> Place:
            return self._place(each, over_share)

        found: list[Candidate] = []
        ahead = 0.0
        for _, equals in itertools.groupby(sorted(candidates, key=place), key=place):
            peers = sorted(equals, key=lambda each: self.key(each, over_share))
            kept = self._kept(peers, ahead) if self._counts_seconds(peers[0]) else []
            found += self._backwards(peers, kept, ahead) if kept else peers
            ahead += sum(each.rest_seconds for each in peers if each.rest_seconds < math.inf)
        return found

    def key(self, each: Candidate, over_share: Collection[str] = ()) -> Key:
        """Sort by this where nobody has a deadline: the order of one does not depend on the others then."""
        return self._place(each, over_share), each.rest_seconds if self._counts_seconds(each) else 0.0, each.arrival

    def newcomer(
        self, running: Candidate, waiting: Sequence[Candidate], over_share: Collection[str] = ()
    ) -> Candidate | None:
        """Find the one for which `running` makes way now; None: it goes on.

        It is the first in order, if that is another one and there is a reason for a pause: it is of a higher place
        (priority, share, guard), some one's rest is below MAKES_WAY_BELOW of the running one's, or more deadlines are
        kept than if the running one went on to its end. As the running one's rest only shrinks, two jobs do not swap
        back and forth.
        """
        if self.scheduling == "arrival" or not self.pauses:
            return None
        ordered = self.ordered([running, *waiting], over_share)
        before = list(itertools.takewhile(lambda each: each.key != running.key, ordered))
        if not before:
            return None
        own = self._place(running, over_share)
        if self._place(before[0], over_share) < own:
            return before[0]
        limit = self.makes_way_below * running.rest_seconds
        if any(each.rest_seconds < limit for each in before) or self._keeps_more(
            running, [each for each in waiting if self._place(each, over_share) == own]
        ):
            return before[0]
        return None

    def _place(self, each: Candidate, over_share: Collection[str]) -> Place:
        """What goes above deadlines and seconds."""
        if self.scheduling == "arrival":
            return each.is_last, -each.priority, False, False
        return each.is_last, -each.priority, each.client in over_share, self._counts_seconds(each)

    def _counts_seconds(self, each: Candidate) -> bool:
        """Whether its seconds and deadline say where it stands, not its arrival."""
        is_guarded = self.guard is not None and each.waited_seconds >= self.guard * each.whole_seconds
        return self.scheduling == "shortest" and not is_guarded

    def _backwards(self, peers: Sequence[Candidate], kept: Sequence[Candidate], ahead: float) -> list[Candidate]:
        """Smith's backward rule: of those that may be last without being late the longest is last."""
        known = [each for each in peers if each.rest_seconds < math.inf]
        dated = {each.key for each in kept}
        latest_first = sorted(
            ((self._latest(each) if each.key in dated else math.inf, each) for each in known), key=lambda pair: -pair[0]
        )
        end = (ahead + sum(each.rest_seconds for each in known)) / self.num_replicas
        may_be_last: list[tuple[float, int, Candidate]] = []
        found: list[Candidate] = []
        number = 0
        for _ in known:
            while number < len(known) and (not may_be_last or latest_first[number][0] >= end):
                each = latest_first[number][1]
                heapq.heappush(may_be_last, (-each.rest_seconds, -each.arrival, each))
                number += 1
            last = heapq.heappop(may_be_last)[2]
            found.append(last)
            end -= last.rest_seconds / self.num_replicas
        return [*reversed(found), *peers[len(known) :]]

    def _kept(self, candidates: Sequence[Candidate], ahead: float) -> list[Candidate]:
        """Moore-Hodgson: the most of them whose deadlines can be kept together, after so many seconds of others."""
        end = ahead / self.num_replicas
        kept: list[tuple[float, int, Candidate]] = []
        dated = [each for each in candidates if each.due_seconds is not None and each.rest_seconds < math.inf]
        for each in sorted(dated, key=lambda each: (self._latest(each), each.arrival)):
            heapq.heappush(kept, (-each.rest_seconds, -each.arrival, each))
            end += each.rest_seconds / self.num_replicas
            if end > self._latest(each):
                end += heapq.heappop(kept)[0] / self.num_replicas
        return [each for _, _, each in kept]

    def _latest(self, each: Candidate) -> float:
        """The latest end of all replicas' work, itself included, with which it is in time: of its seconds a replica
        cannot give any away."""
        return each._due - each.rest_seconds * (1 - 1 / self.num_replicas)

    def _keeps_more(self, running: Candidate, peers: Sequence[Candidate]) -> bool:
        """Whether more deadlines are kept than if `running` goes on to its end."""
        goes_on = len(self._kept(peers, running.rest_seconds)) + (running.rest_seconds <= running._due < math.inf)
        return len(self._kept([running, *peers], 0.0)) > goes_on
