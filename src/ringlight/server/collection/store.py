"""JobStore: the jobs of a server, on a disk before they are acknowledged."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

from msgspec import UNSET, UnsetType
from sqlalchemy import (
    JSON,
    URL,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    inspect,
    not_,
    select,
    type_coerce,
    update,
)

from ringlight.core.clock import Clock
from ringlight.core.errors import NotFound, StoreError
from ringlight.core.warning import Warnings
from ringlight.engine.job_state import Status
from ringlight.server.collection.batch_store import WAITS, BatchStore
from ringlight.server.collection.database import Database
from ringlight.server.collection.ends import IS_UNFINISHED, end_job
from ringlight.server.collection.paging import Order, read_page
from ringlight.server.collection.stored import (
    COLUMNS,
    METADATA,
    SCHEMA_VERSION,
    Idempotency,
    StoredDelivery,
    StoredJob,
    deliveries,
    idempotencies,
    jobs,
    to_job,
    versions,
)
from ringlight.server.collection.upgrades import UPGRADES
from ringlight.server.collection.upload_store import UploadStore
from ringlight.server.http.http_error import IdempotencyConflict
from ringlight.wire.video import VideoError

__all__ = ["Idempotency", "JobStore", "StoredDelivery", "StoredJob"]

Jobs = list[StoredJob]
MAX_YOUNG = 4096  # jobs whose age is known by more than the wall's clock


class JobStore:
    """Jobs in SQLite or PostgreSQL, for one server. Safe to use from any thread.

    What a method changed is on the disk when it returns. Every method raises StoreError while the database fails, and
    works again once that does.
    """

    def __init__(self, url: str | URL, *, timeout_seconds: float = 5.0, clock: Clock | None = None) -> None:
        """Open, or make, the database at `url`: sqlite:///path or postgresql://user@host/database.

        `timeout_seconds` bounds how long a call waits for a lock. Raises InvalidSetting where the URL is wrong, a
        driver is missing or another server is there; StoreError where the database cannot be used.
        """
        self._database = Database(url, timeout_seconds)
        self.batches = BatchStore(self._database)
        self.uploads = UploadStore(self._database)
        self._clock = clock or Clock()
        self._added_at: dict[str, float] = {}  # the youngest jobs, oldest first, by a clock that only goes on
        try:
            self._make_tables()
        except BaseException:
            self.close()
            raise

    def _make_tables(self) -> None:
        with self._database.write() as connection:
            if not inspect(connection).has_table(versions.name):
                METADATA.create_all(connection, checkfirst=False)  # a table of another's is an error
                connection.execute(insert(versions).values(version=SCHEMA_VERSION))
            found = connection.execute(select(versions.c.version)).scalar()
            if found in UPGRADES:
                for version in range(found, SCHEMA_VERSION):
                    UPGRADES[version](connection)
                connection.execute(update(versions).values(version=SCHEMA_VERSION))
                found = SCHEMA_VERSION
        if found != SCHEMA_VERSION:
            raise StoreError(
                f"the database of jobs {self._database.name} has version {found} of the tables, and this Ringlight"
                f" needs {SCHEMA_VERSION}: go on with the Ringlight that wrote it, or name another database"
            )

    def close(self) -> None:
        """Disconnect; every later call raises StoreError. Let calls in other threads return first."""
        self._database.close()

    def add(self, job: StoredJob, idempotency: Idempotency | None = None) -> StoredJob:
        """Store a new job, whose request has no image, and return it.

        If its idempotency key is known, the job that came first is returned instead. Raises IdempotencyConflict if that
        had another body.
        """
        assert job.request.image is None, "images are kept in the job's folder"
        values = {column.name: getattr(job, column.name) for column in COLUMNS}
        with self._database.write() as connection:
            if idempotency is not None and (earlier := self._earlier(connection, job.owner, idempotency)):
                return earlier
            connection.execute(insert(jobs).values(values))
            if idempotency is not None:
                key = {"owner": job.owner, "key_sha256": _sha256(idempotency.key)}
                connection.execute(delete(idempotencies).filter_by(**key))  # of a job outside the window
                connection.execute(
                    insert(idempotencies).values(key | {"body_sha256": idempotency.body_sha256, "job_id": job.id})
                )
        self._added_at[job.id] = self._clock.monotonic()
        while len(self._added_at) > MAX_YOUNG:
            del self._added_at[next(iter(self._added_at))]
        return job

    def find(self, owner: str, idempotency: Idempotency) -> StoredJob | None:
        """The job that `add` would return instead of a new one. Raises IdempotencyConflict."""
        with self._database.read() as connection:
            return self._earlier(connection, owner, idempotency)

    def get(self, job_id: str, owner: str | None = None) -> StoredJob:
        """Get a job. Raises NotFound, also if it is not `owner`'s; None owns all."""
        with self._database.read() as connection:
            return _get(connection, job_id, owner)

    def list(
        self,
        owner: str | None,
        after: str | None,
        limit: int,
        order: Order,
        status: Status | None = None,
        words: str = "",
    ) -> tuple[Jobs, bool]:
        """List at most `limit` jobs of an owner (None: all) by creation, after `after`, and whether there are more.

        They are all, those of a status, or those whose prompt has each of these words somewhere. Raises NotFound if
        there is no job `after`.
        """
        query = select(*COLUMNS)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if status is not None:
            query = query.where(jobs.c.status == status)
        prompt = type_coerce(jobs.c.request, JSON)["prompt"].as_string()
        query = query.where(*(prompt.icontains(word, autoescape=True) for word in words.split()))
        with self._database.read() as connection:
            last = None if after is None else _get(connection, after, owner)
            edge = None if last is None else (last.created_at, last.id)
            rows, has_more = read_page(connection, query, jobs, edge, limit, order)
        return [to_job(row) for row in rows], has_more

    def unfinished(self) -> Jobs:
        """Jobs that are queued or in progress, in order of arrival, without those that wait in `batches`."""
        query = select(*COLUMNS).where(IS_UNFINISHED, not_(and_(*WAITS))).order_by(jobs.c.created_at, jobs.c.id)
        with self._database.read() as connection:
            return _all(connection, query)

    def mark(
        self,
        job_id: str,
        *,
        status: Literal["queued", "in_progress"] | UnsetType = UNSET,
        started_at: float | UnsetType | None = UNSET,
        progress: int | UnsetType = UNSET,
        saved_step: int | UnsetType = UNSET,
        deaths: int | UnsetType = UNSET,
        pauses: int | UnsetType = UNSET,
        paused_seconds: float | UnsetType = UNSET,
        paused_at: float | UnsetType | None = UNSET,
        layout: str | UnsetType = UNSET,
        deadline_at: float | UnsetType = UNSET,
    ) -> None:
        """Change what is given of a job that is not over; no effect on one that is, or is not there."""
        given = {"status": status, "started_at": started_at, "progress": progress, "deaths": deaths, "layout": layout}
        given |= {"saved_step": saved_step, "pauses": pauses, "paused_seconds": paused_seconds, "paused_at": paused_at}
        given["deadline_at"] = deadline_at
        values = {name: value for name, value in given.items() if value is not UNSET}
        if values:
            self._change(update(jobs).where(jobs.c.id == job_id, IS_UNFINISHED).values(values))

    def finish(
        self,
        job_id: str,
        status: Literal["completed", "failed"],
        completed_at: float,
        expires_at: float | None,
        error: VideoError | None = None,
        report: bytes | None = None,
        output_bytes: int = 0,
        tells_operator: bool = False,
        warnings: Warnings | None = None,
        media_url: str | None = None,
    ) -> bool:
        """End a job, and record the webhooks to call in the same transaction: there is one terminal state.

        The webhooks are the one that its request names, and the operator's if there is one. False, and no effect, if
        the job was over already or is not there.
        """
        values: dict[str, Any] = {
            "status": status,
            "completed_at": completed_at,
            "expires_at": expires_at,
            "error": error,
            "report": report,
            "has_report": report is not None,
            "output_bytes": output_bytes,
            "media_url": media_url,
        }
        if warnings is not None:
            values["warnings"] = warnings
        if status == "completed":
            values["progress"] = 100
        with self._database.write() as connection:
            return end_job(connection, job_id, values, tells_operator)

    def settle(self, over: Collection[StoredDelivery], limit: int) -> Sequence[StoredDelivery]:
        """Forget deliveries that are over; return the others, the oldest first, at most `limit`.

        Only the server that holds the database is told, so that no other one sends the same.
        """
        columns = (*deliveries.c, jobs.c.webhook_url)
        query = select(*columns).join(jobs, jobs.c.id == deliveries.c.job_id).limit(limit)
        with self._database.write() as connection:
            for each in over:
                connection.execute(delete(deliveries).filter_by(event_id=each.event_id, is_operators=each.url is None))
            rows = connection.execute(query.order_by(deliveries.c.created_at)).all()
        return [
            StoredDelivery(row.event_id, row.job_id, None if row.is_operators else row.webhook_url, row.created_at)
            for row in rows
        ]

    def report(self, job_id: str) -> bytes | None:
        """The report that it was finished with; None where there is none."""
        with self._database.read() as connection:
            found: bytes | None = connection.execute(select(jobs.c.report).where(jobs.c.id == job_id)).scalar()
        return found

    def delete(self, job_id: str) -> bool:
        """Forget a job, its idempotency keys and its webhooks. False if it is not there."""
        return self._change(delete(jobs).where(jobs.c.id == job_id))

    def expired(self, now: float, limit: int = 1000) -> Jobs:
        """Finished jobs whose time was over before `now`, the longest over first, at most `limit`."""
        query = select(*COLUMNS).where(jobs.c.expires_at <= now).order_by(jobs.c.expires_at, jobs.c.id).limit(limit)
        with self._database.read() as connection:
            return _all(connection, query)

    def spare(self, now: float, seconds: float) -> int:
        """Keep what is over at `now` for `seconds` more, or for as long again as it was to be kept, if that is less.

        Returns how many."""
        kept = jobs.c.expires_at - jobs.c.completed_at
        changed = update(jobs).where(jobs.c.expires_at <= now).values(expires_at=now + _least(seconds, kept))
        with self._database.write() as connection:
            return connection.execute(changed).rowcount

    def rebase(self, now: float, set_seconds: float = 0.0) -> None:
        """Adjust times after the clock was set forward by `set_seconds` (negative: back) to `now`: all keep theirs.

        Whether it was wrong before or is now, nobody knows, so no time gets shorter than either way. Ends that lie in
        the future were written by a clock that was ahead: they are now, and what was to be kept is, from now on.
        """
        shift = _least(max(0.0, set_seconds), now - jobs.c.completed_at)
        ahead = update(jobs).where(jobs.c.completed_at > now)
        ahead = ahead.values(expires_at=jobs.c.expires_at + (now - jobs.c.completed_at), completed_at=now)
        finished = update(jobs).where(jobs.c.expires_at.is_not(None)).values(expires_at=jobs.c.expires_at + shift)
        since = _least(set_seconds, now - jobs.c.created_at)
        moved = {"deadline_at": jobs.c.deadline_at + since, "paused_at": jobs.c.paused_at + since}
        waiting = update(jobs).where(IS_UNFINISHED).values(moved)
        with self._database.write() as connection:
            connection.execute(ahead)
            if set_seconds > 0:
                connection.execute(finished)
                connection.execute(waiting)

    def oldest_finished(self, limit: int = 1000) -> Jobs:
        """Finished jobs whose output takes room, the one that ended first at the head, at most `limit`."""
        query = select(*COLUMNS).where(jobs.c.completed_at.is_not(None), jobs.c.output_bytes > 0)
        query = query.order_by(jobs.c.completed_at, jobs.c.id).limit(limit)
        with self._database.read() as connection:
            return _all(connection, query)

    def total_output_bytes(self) -> int:
        """The room that the outputs of all jobs take."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.sum(jobs.c.output_bytes))).scalar() or 0)

    def count_by_status(self) -> dict[Status, int]:
        """Number of jobs of each status."""
        counts: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
        with self._database.read() as connection:
            for status, count in connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status)):
                counts[status] = count
        return counts

    def _earlier(self, connection: Connection, owner: str, idempotency: Idempotency) -> StoredJob | None:
        """The job that a key stands for, as far as it counts. Raises IdempotencyConflict."""
        if (found := _of_key(connection, owner, idempotency)) is None:
            return None
        job, body_sha256 = found
        window_seconds = idempotency.window_seconds
        if window_seconds is not None and not 0 <= self._age_seconds(job) < window_seconds:
            return None
        if body_sha256 != idempotency.body_sha256:
            raise IdempotencyConflict(f"the idempotency key {idempotency.key!r} was used before, with another body")
        return job

    def _age_seconds(self, job: StoredJob) -> float:
        """Seconds since its creation; negative for one of an earlier server, whose clock was ahead of ours."""
        if (added_at := self._added_at.get(job.id)) is not None:
            return self._clock.monotonic() - added_at
        return self._clock.wall() - job.created_at

    def _change(self, statement: Any) -> bool:
        """Run a statement that changes one job; returns whether it did."""
        with self._database.write() as connection:
            return connection.execute(statement).rowcount == 1


def _least(seconds: float, other: ColumnElement[float]) -> ColumnElement[float]:
    return case((other < seconds, other), else_=seconds)


def _get(connection: Connection, job_id: str, owner: str | None) -> StoredJob:
    where: list[ColumnElement[bool]] = [jobs.c.id == job_id]
    if owner is not None:
        where.append(jobs.c.owner == owner)
    # What cannot be printed is no id, and PostgreSQL would not take it in a question.
    row = connection.execute(select(*COLUMNS).where(*where)).one_or_none() if job_id.isprintable() else None
    if row is None:
        raise NotFound(f"there is no video {job_id!r}")
    return to_job(row)


def _all(connection: Connection, query: Select[Any]) -> Jobs:
    rows: Sequence[Any] = connection.execute(query).all()
    return [to_job(row) for row in rows]


def _of_key(connection: Connection, owner: str, idempotency: Idempotency) -> tuple[StoredJob, str] | None:
    """The job that a key stands for, and the body that it was created with."""
    query = (
        select(idempotencies.c.body_sha256, *COLUMNS)
        .join(jobs, jobs.c.id == idempotencies.c.job_id)
        .where(idempotencies.c.owner == owner, idempotencies.c.key_sha256 == _sha256(idempotency.key))
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (to_job(row), row.body_sha256)


def _sha256(key: str) -> str:
    """A key of any length and any characters as a column that can be indexed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
