"""Scheduling: which job is next, and for which a running one is paused. The one home of the order, without a clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from ringlight.core.settings import Scheduling

MAKES_WAY_BELOW = 0.8  # of the running one's rest: a job that is hardly shorter is not worth a pause

Place = tuple[bool, int, bool, bool]
Key = tuple[Place, float, float, int]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Job as the order sees it. Seconds are predicted, on its replica; infinite: unknown."""

    key: str
    arrival: int  # a number in the order in which they came
    priority: int = 0  # higher goes first
    is_last: bool = False  # its workers have died twice: it waits until nobody else does
    client: str = ""  # whose share it uses
    used_seconds: float = 0.0  # of replicas by that client, lately
    rest_seconds: float = math.inf  # of what is left
    whole_seconds: float = math.inf  # alone, from its beginning
    waited_seconds: float = 0.0  # since it came, turns included
    due_seconds: float | None = None  # until its deadline


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Order in which replicas take jobs, and when a running one is paused.

    `shortest`: who is not last, then priority, then clients within their share, then who has waited
    too long, by arrival. Among equals the most deadlines that can be kept are (Moore-Hodgson, doi
    10.1287/mnsc.15.1.102); subject to that the shortest rest goes first (Smith's backward rule, doi
    10.1002/nav.3800030106). Without deadlines, or where all are far, that is shortest rest first. A deadline that
    cannot be kept counts as none. Of equal rests goes first whose client has used least, then what came first. Unknown
    rests come behind known ones.

    `arrival`: who is not last, then priority, then arrival. Nobody makes way.

    With a `max_slowdown` whoever has waited so many times its own seconds is not overtaken any more. With several
    replicas before one line a deadline is judged as if each took its part of whatever is ahead.
    """

    scheduling: Scheduling = "shortest"
    pauses: bool = True  # a job may be left for another
    max_slowdown: float = 0.0  # none
    num_replicas: int = 1
    makes_way_below: float = MAKES_WAY_BELOW

    def ordered(self, candidates: Sequence[Candidate], over_share: Collection[str] = ()) -> list[Candidate]:
        """Sort candidates, the next one first. `over_share`: clients that have used more than their share."""
        return list(self._in_order(candidates, over_share))

    def first(self, candidates: Sequence[Candidate], over_share: Collection[str] = ()) -> Candidate:
        """Next candidate, of one at least."""
        return next(self._in_order(candidates, over_share))

    def _in_order(self, candidates: Sequence[Candidate], over_share: Collection[str]) -> Iterator[Candidate]:
        """Yield candidates in order; those of lower places are looked at only once those above are through."""
        keyed = sorted((self.key(each, over_share), number) for number, each in enumerate(candidates))
        ahead = 0.0
        for _, equals in itertools.groupby(keyed, key=lambda pair: pair[0][0]):
            peers = [candidates[number] for _, number in equals]
            kept = self._kept(peers, ahead) if self._counts_seconds(peers[0]) else {}
            yield from self._backwards(peers, kept, ahead) if kept else peers
            ahead += sum(each.rest_seconds for each in peers if each.rest_seconds < math.inf)

    def key(self, each: Candidate, over_share: Collection[str] = ()) -> Key:
        """Sort key if nobody has a deadline: the order of one does not depend on the others then."""
        counts = self._counts_seconds(each)
        rest, used = (each.rest_seconds, each.used_seconds) if counts else (0.0, 0.0)
        return self._place(each, over_share), rest, used, each.arrival

    def newcomer(
        self, running: Candidate, waiting: Sequence[Candidate], over_share: Collection[str] = ()
    ) -> Candidate | None:
        """Find the candidate for which `running` is paused now; None: it goes on.

        It is the first in order, if that is another one and there is a reason for a pause: it is of a higher place
        (priority, share, wait), some one's rest is below MAKES_WAY_BELOW of the running one's, or more deadlines are
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
        """Sort key that goes before deadlines and seconds."""
        if self.scheduling == "arrival":
            return each.is_last, -each.priority, False, False
        return each.is_last, -each.priority, each.client in over_share, self._counts_seconds(each)

    def _counts_seconds(self, each: Candidate) -> bool:
        """Whether its seconds and deadline decide its place, not its arrival."""
        is_overdue = 0 < self.max_slowdown * each.whole_seconds <= each.waited_seconds
        return self.scheduling == "shortest" and not is_overdue

    def _backwards(self, peers: Sequence[Candidate], kept: Mapping[int, float], ahead: float) -> list[Candidate]:
        """Order by Smith's backward rule: of those that may be last without being late the longest is last.

        `peers` are in the order of their keys, and `kept` are indices into them, with the latest end of each.
        """
        num_known = sum(each.rest_seconds < math.inf for each in peers)
        latest_first = sorted(range(num_known), key=lambda place: -kept.get(place, math.inf))
        end = (ahead + sum(each.rest_seconds for each in peers[:num_known])) / self.num_replicas
        may_be_last: list[int] = []  # places, negative: the longest is behind
        found: list[Candidate] = []
        number = 0
        for _ in range(num_known):
            while number < num_known and (not may_be_last or kept.get(latest_first[number], math.inf) >= end):
                heapq.heappush(may_be_last, -latest_first[number])
                number += 1
            last = peers[-heapq.heappop(may_be_last)]
            found.append(last)
            end -= last.rest_seconds / self.num_replicas
        return [*reversed(found), *peers[num_known:]]

    def _kept(self, peers: Sequence[Candidate], ahead: float) -> Mapping[int, float]:
        """Largest set of jobs whose deadlines can be kept together, after `ahead` seconds of others (Moore-Hodgson).

        It has their indices in `peers`, which are in the order of their keys, with the latest end of each.
        """
        end = ahead / self.num_replicas
        kept: list[int] = []  # places, negative: the longest is behind
        latest = {
            place: self._latest(each)
            for place, each in enumerate(peers)
            if each.due_seconds is not None and each.rest_seconds < math.inf
        }
        for place in sorted(latest, key=lambda place: (latest[place], peers[place].arrival)):
            heapq.heappush(kept, -place)
            end += peers[place].rest_seconds / self.num_replicas
            if end > latest[place]:
                end -= peers[-heapq.heappop(kept)].rest_seconds / self.num_replicas
        return {-place: latest[-place] for place in kept}

    def _latest(self, each: Candidate) -> float:
        """Latest end of all replicas' work, itself included, with which it is in time.

        Of its seconds a replica cannot give any away.
        """
        due = math.inf if each.due_seconds is None else each.due_seconds
        return due - each.rest_seconds * (1 - 1 / self.num_replicas)

    def _keeps_more(self, running: Candidate, peers: Sequence[Candidate]) -> bool:
        """Whether more deadlines are kept than if `running` goes on to its end."""
        others = sorted((each for each in peers if each.due_seconds is not None), key=self.key)
        due = running.due_seconds
        own = due is not None and running.rest_seconds <= due < math.inf
        goes_on = len(self._kept(others, running.rest_seconds)) + own
        return len(self._kept(sorted([running, *others], key=self.key), 0.0)) > goes_on
