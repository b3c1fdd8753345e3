"""Holding: the jobs that the ranks of one replica have in their memory, one of which has the turn; and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ringlight.core.report import GIB
from ringlight.engine.jobs import Job

MOST_HELD = 8  # jobs that have made way: who waits behind so many has time to be read from the disk
MOST_HELD_BYTES = 2 * GIB  # of one rank: ten films of 0.2 GiB, latents, the sampler's memory and keys of texts


class Ticket:
    """Job in the queue of an engine, until it is over or has to be taken up anew by another replica.

    `holder` is the replica whose ranks have been told of it, None before its first turn; no other one takes it. It has
    the turn where it is the `turn` of that one; else, if it `has_made_way`, they keep it, in `held_bytes`. A turn
    `has_begun` once ranks have said something of it, and the job `makes_way_for` another one where it has been asked
    to, which says `why`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.holder: Holding | None = None
        self.has_made_way = False
        self.held_bytes = 0
        self.is_sent = False  # from then on its ranks are told of a cancel
        self.has_begun = False
        self.makes_way_for: Job | None = None
        self.why = ""  # for whom, and for what reason, in words
        self.is_void = False  # no replica is to do anything for it
        self.charged_at = 0.0

    @property
    def can_be_put_back(self) -> bool:
        """Whether it can be resumed from a file if no replica keeps it."""
        return self.job.submission.keep is not None

    @property
    def is_saved(self) -> bool:
        """Whether all steps that its ranks have done are in that file."""
        return self.job.state.saved_step >= self.job.state.step

    @property
    def can_move(self) -> bool:
        """Whether another replica can resume it from where its ranks have paused it."""
        return self.can_be_put_back and self.is_saved

    @property
    def is_computed(self) -> bool:
        """Whether its ranks have nothing more to do for it."""
        return self.job.state.is_computed

    @property
    def is_making_way(self) -> bool:
        """Whether it was asked to pause, so that its ranks will be free before it is done."""
        return self.makes_way_for is not None and self.job.state.may_pause

    @property
    def is_urged(self) -> bool:
        """Whether the job that it pauses for is not to wait for the end of a step."""
        newcomer = self.makes_way_for
        return newcomer is not None and newcomer.submission.priority > self.job.submission.priority


class Holding:
    """State of one replica in the queue: the job that has the turn, and whether it takes jobs at all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn: Ticket | None = None
        self.is_serving = False
        self.starts_since: float | None = None  # while its workers start

    @property
    def is_there(self) -> bool:
        """Whether it takes jobs, or will once its workers have started."""
        return self.is_serving or self.starts_since is not None or self.turn is not None

    @property
    def is_free(self) -> bool:
        """Whether it takes a job as soon as there is one."""
        return self.is_serving and (self.turn is None or self.turn.job.state.is_computed)


def may_hold(ticket: Ticket, held: Sequence[Ticket]) -> bool:
    """Whether a job may pause while these are kept: within the bound, or because one of them can be put back."""
    is_within = len(held) < MOST_HELD and sum(each.held_bytes for each in held) < MOST_HELD_BYTES
    return is_within or any(each.can_be_put_back for each in (ticket, *held))


def beyond_bound(held: Sequence[Ticket]) -> Iterator[Ticket]:
    """Yield the kept jobs to put back so that the rest is within the bound: the last ones first."""
    count, held_bytes = len(held), sum(each.held_bytes for each in held)
    for each in reversed(held):
        if count <= MOST_HELD and held_bytes <= MOST_HELD_BYTES:
            return
        if each.can_be_put_back:
            count, held_bytes = count - 1, held_bytes - each.held_bytes
            yield each


def beyond_room(held: Iterable[Ticket], room_bytes: float) -> Iterator[Ticket]:
    """Yield the kept jobs to put back so that the rest fits into `room_bytes`: the largest ones first."""
    largest_first = sorted(held, key=lambda each: -each.held_bytes)
    held_bytes = sum(each.held_bytes for each in largest_first)
    for each in largest_first:
        if held_bytes <= room_bytes:
            return
        if each.can_be_put_back:
            held_bytes -= each.held_bytes
            yield each
