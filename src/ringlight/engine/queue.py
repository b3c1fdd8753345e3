"""JobQueue: jobs of an engine that wait for a turn, whose turn it is, and which one is paused for which."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ringlight.core.lora import Lora
from ringlight.engine.holding import Holding, Ticket, beyond_bound, beyond_room, may_hold
from ringlight.engine.jobs import Job
from ringlight.engine.order import JobOrder
from ringlight.planner.forecast import ReplicaJobs
from ringlight.planner.scheduling import Candidate, Policy


class Line(NamedTuple):
    """State of the queue: each replica's jobs, jobs that any replica may take, and clients over their share."""

    replicas: Sequence[ReplicaJobs]
    waiting: Sequence[Candidate]
    over_share: Collection[str]
    policy: Policy


class JobQueue:
    """Queue in the order of a policy.

    Each replica takes the first of the jobs that anyone may take and those that it keeps.

    Among jobs that are alike to the policy, one goes before others whose LoRAs are those that a replica has. Safe to
    use from any thread.
    """

    def __init__(self, order: JobOrder) -> None:
        self._order = order
        self._waiting: dict[str, Ticket] = {}
        self._holdings: list[Holding] = []
        self._counter = itertools.count()
        self._changed = threading.Condition()
        self._is_stopped = self._is_closed = False
        self.version = 0  # of the line: other ones may have another outlook
        self.start_seconds: float | None = None  # that the last replica took to start

    def __len__(self) -> int:
        """Number of jobs that wait for a turn, paused ones included."""
        return len(self._waiting)

    def serve(self, name: str) -> Holding:
        """Let another replica take jobs, once its workers are `ready`."""
        holding = Holding(name)
        with self._changed:
            self._holdings.append(holding)
        return holding

    def starting(self, holding: Holding) -> None:
        """Note that the workers of a replica begin to start."""
        self._serve(holding, False, starts_since=self._order.now())

    def ready(self, holding: Holding) -> None:
        """Note that the workers of a replica have started."""
        since, now = holding.starts_since, self._order.now()
        self.start_seconds = None if since is None else now - since
        self._serve(holding, True)

    def lost(self, holding: Holding) -> None:
        """Note that the workers of a replica have not started."""
        self._serve(holding, False)

    def leave(self, holding: Holding) -> list[Ticket] | None:
        """Stop giving jobs to a replica. Returns what it keeps, to be put back.

        None, and nothing is changed, if it has a job, or keeps one that no other replica can resume.
        """
        with self._changed:
            kept = self._only_of(holding)
            if holding.turn is not None or not all(each.has_made_way and each.can_move for each in kept):
                return None
            self._holdings.remove(holding)
            self._count()
            return self._withdrawn(kept)

    def num_kept(self, holding: Holding) -> int:
        """Number of paused jobs that a replica keeps."""
        with self._changed:
            return len(self._only_of(holding))

    def put(self, job: Job, holder: Holding | None = None) -> None:
        """Queue a job for any replica, or for `holder` until `open_up`; one that comes back has the place that it had.

        One that was asked to stop fails instead.
        """
        with self._changed:
            if job.arrival is None:
                job.arrival = next(self._counter)
            if (reason := job.stop_reason) is None:
                self._waiting[job.id] = Ticket(job)
                self._waiting[job.id].holder = holder
                self.version += 1
                self._changed.notify_all()
        if reason is not None:
            job.fail(reason)

    def open_up(self, holding: Holding) -> None:
        """Release the jobs that a replica was told to forget.

        None of their files is being written any more, so any replica may resume them.
        """
        with self._changed:
            for each in self._only_of(holding):
                if not each.has_made_way:
                    each.holder = None
                    self._changed.notify_all()

    def take(self, holding: Holding, timeout_seconds: float, loras: tuple[Lora, ...] = ()) -> Ticket | None:
        """Take the next job for a replica that has these LoRAs: its turn begins.

        None if there is none in that time, or none is to be taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._open_to(holding), timeout_seconds)
            open_to = self._open_to(holding)
            if not open_to:
                return None
            job, *passed = self._order.next((each.job for each in open_to), loras, self._over_share())
            for each in passed:
                each.overtaken += 1
            ticket = self._waiting.pop(job.id)
            self.version += 1
            holding.turn, ticket.holder, ticket.charged_at = ticket, holding, self._order.now()
            ticket.is_sent, ticket.makes_way_for = False, None
            return ticket

    def hold(self, ticket: Ticket, held_bytes: int) -> list[Ticket] | None:
        """Queue a paused job for another turn with the replica that keeps it.

        Returns the jobs that are no longer kept because of it, to be put back; None for a job that was asked to stop,
        of which nothing is to be kept.
        """
        with self._changed:
            self._end_turn(ticket)
            if ticket.job.stop_reason is not None:
                ticket.is_void = True
                return None
            ticket.has_made_way, ticket.held_bytes, ticket.has_begun = True, held_bytes, False
            self._waiting[ticket.job.id] = ticket
            held = {each.job.id: each for each in self._kept_by(ticket.holder)}
            ordered = [held[job.id] for job in self._ordered(held.values())]
            return self._withdrawn(list(beyond_bound(ordered)))

    def make_room(self, ticket: Ticket, room_bytes: float) -> list[Ticket]:
        """Limit the memory of jobs beside the one that has the turn to so many bytes of its ranks.

        Returns those that are no longer kept because of it, to be put back.
        """
        with self._changed:
            return self._withdrawn(list(beyond_room(self._kept_by(ticket.holder), room_bytes)))

    def end_turn(self, ticket: Ticket) -> None:
        """Free the replica of a job, however the job ended."""
        with self._changed:
            self._end_turn(ticket)

    def withdraw(self, ticket: Ticket) -> bool:
        """Withdraw a job from all replicas; False if it was withdrawn already."""
        with self._changed:
            was_void = ticket.is_void
            self._withdrawn([ticket])
            self._end_turn(ticket)
            return not was_void

    def remove(self, job: Job) -> Ticket | None:
        """Take a job out, for good; None if it does not wait here."""
        with self._changed:
            ticket = self._waiting.get(job.id)
            if ticket is not None:
                self._withdrawn([ticket])
            return ticket

    def ways(self) -> list[Ticket]:
        """Jobs that should be asked to pause now.

        None is for a job that another replica will take, as it is free or will be; among several it is the one that
        comes last in the order.
        """
        with self._changed:
            turns = self._turns()
            for each in turns:
                self._charge(each)
            if self._is_stopped or not self._waiting:
                return []
            asked = {each.job.id: each for each in turns if self._may_make_way(each)}
            if not asked:
                return []
            coming = sum(each.is_free for each in self._holdings) + sum(each.is_making_way for each in turns)
            free = self._ordered(each for each in self._waiting.values() if each.holder is None)[coming:]
            return list(self._found(asked, free))

    def idle_elsewhere(self) -> list[Ticket]:
        """Withdraw jobs that a busy replica keeps and a free one resumes sooner from their files, to be put back."""
        with self._changed:
            num_free = sum(each.is_free for each in self._holdings)
            num_free -= sum(each.holder is None for each in self._waiting.values())
            if self._is_stopped or num_free <= 0 or not self._waiting:
                return []
            kept = {each.job.id: each for each in self._waiting.values() if self._would_move(each)}
            return self._withdrawn([kept[job.id] for job in self._ordered(kept.values())[:num_free]])

    def jobs(self) -> list[Job]:
        """Jobs that wait, paused ones included, the next one first, whichever LoRAs replicas have."""
        with self._changed:
            return self._ordered(self._waiting.values())

    def ids(self) -> Collection[str]:
        """Ids of all jobs that wait, paused ones included."""
        with self._changed:
            return set(self._waiting)

    def seen(self) -> Line:
        """Queue as the policy sees it now."""
        with self._changed:
            there = [each for each in self._holdings if each.is_there] or self._holdings  # none: one will be
            replicas = [self._jobs_of(each) for each in there]
            free = [self._order.candidate(each.job) for each in self._waiting.values() if each.holder is None]
            return Line(replicas, free, self._over_share(), self._order.policy)

    def rests(self) -> list[float]:
        """Seconds that each job in the line needs, those that have a turn included, in the order of the policy."""
        with self._changed:
            jobs = self._ordered([*self._waiting.values(), *(each for each in self._turns() if not each.is_computed)])
            return [self._order.candidate(job).rest_seconds for job in jobs]

    def stop(self) -> None:
        """Stop handing out jobs and pausing them."""
        with self._changed:
            self._is_stopped = True

    def close(self) -> None:
        """Stop handing out jobs, and wake whoever waits for one."""
        with self._changed:
            self._is_stopped = self._is_closed = True
            self._changed.notify_all()

    def _serve(self, holding: Holding, is_serving: bool, starts_since: float | None = None) -> None:
        with self._changed:
            holding.is_serving, holding.starts_since = is_serving, starts_since
            self._count()

    def _count(self) -> None:
        """Count the replicas that take jobs, after a change."""
        self._order.count(max(1, sum(each.is_serving for each in self._holdings)))
        self.version += 1

    def _open_to(self, holding: Holding) -> list[Ticket]:
        if self._is_stopped or holding not in self._holdings:
            return []
        return [each for each in self._waiting.values() if each.holder in (None, holding)]

    def _jobs_of(self, holding: Holding) -> ReplicaJobs:
        job = None if holding.turn is None else holding.turn.job
        return ReplicaJobs(
            running=None if job is None else self._order.candidate(job),
            late_seconds=0.0 if job is None else self._order.late_seconds(job),
            held=[self._order.candidate(each.job) for each in self._only_of(holding)],
            can_pause=job is None or job.state.may_pause,
            begins_in=self._seconds_to_start(holding),
        )

    def _seconds_to_start(self, holding: Holding) -> float:
        """Seconds until a replica takes jobs, estimated from the last start; 0 if unknown."""
        if holding.starts_since is None or self.start_seconds is None:
            return 0.0
        return max(0.0, holding.starts_since + self.start_seconds - self._order.now())

    def _only_of(self, holding: Holding | None) -> list[Ticket]:
        return [each for each in self._waiting.values() if each.holder is holding is not None]

    def _kept_by(self, holding: Holding | None) -> list[Ticket]:
        return [each for each in self._only_of(holding) if each.has_made_way]

    def _may_make_way(self, ticket: Ticket) -> bool:
        is_at_it = ticket.has_begun and ticket.job.state.may_pause and ticket.makes_way_for is None
        return is_at_it and may_hold(ticket, self._kept_by(ticket.holder))

    def _would_move(self, ticket: Ticket) -> bool:
        if ticket.holder is None or ticket.holder.turn is None or ticket.holder.is_free:
            return False
        if not ticket.has_made_way or not ticket.can_move:
            return False
        return self._order.waits_longer_than_to_begin_anew(ticket.job, ticket.holder.turn.job)

    def _found(self, asked: Mapping[str, Ticket], free: list[Job]) -> Iterator[Ticket]:
        """Yield the running jobs that should pause, given the jobs that any replica may take."""
        for running in reversed(self._ordered(asked.values())):
            ticket = asked[running.id]
            kept = [each.job for each in self._only_of(ticket.holder)]
            if (newcomer := self._order.newcomer(running, [*free, *kept], self._over_share())) is None:
                continue
            if newcomer in free:
                free.remove(newcomer)
            ticket.makes_way_for, ticket.why = newcomer, self._order.why(running, newcomer)
            yield ticket

    def _turns(self) -> list[Ticket]:
        return [each.turn for each in self._holdings if each.turn is not None]

    def _over_share(self) -> Collection[str]:
        return self._order.over_share(each.job for each in [*self._waiting.values(), *self._turns()])

    def _ordered(self, tickets: Iterable[Ticket]) -> list[Job]:
        return self._order.ordered((each.job for each in tickets), self._over_share())

    def _withdrawn(self, tickets: list[Ticket]) -> list[Ticket]:
        self.version += 1
        for each in tickets:
            each.is_void = True
            if self._waiting.get(each.job.id) is each:
                del self._waiting[each.job.id]
        return tickets

    def _end_turn(self, ticket: Ticket) -> None:
        if ticket.holder is not None and ticket.holder.turn is ticket:
            self._charge(ticket)
            ticket.holder.turn = None
            self.version += 1

    def _charge(self, ticket: Ticket) -> None:
        """Charge its client for the replica's time since the last charge."""
        now = self._order.now()
        if ticket.has_begun:
            self._order.charge(ticket.job, now - ticket.charged_at)
        ticket.charged_at = now
