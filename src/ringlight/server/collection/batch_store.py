"""BatchStore: the batches of a server, and which of their requests wait to be queued."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from ringlight.core.errors import NotFound, QueueFull
from ringlight.server.collection.database import Database
from ringlight.server.collection.ends import IS_UNFINISHED, end_job
from ringlight.server.collection.paging import Order, read_page
from ringlight.server.collection.stored import (
    COLUMNS,
    StoredBatch,
    StoredJob,
    StoredRow,
    batch_rows,
    batches,
    jobs,
    to_job,
)
from ringlight.wire.video import VideoError

MAX_WAITING = 100_000  # requests of all batches that are not over
RETRY_SECONDS = 60.0  # for whoever comes with more of them

WAITS = (jobs.c.batch_id.is_not(None), jobs.c.status == "queued")
FIELDS = tuple(batches.c[name] for name in StoredBatch.__struct_fields__)


class BatchStore:
    """Batches in the database of jobs. Safe to use from any thread.

    What a method changed is on the disk when it returns. Every method raises StoreError while the database fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, owner: str, name: str, retry_failed: bool = False) -> Mapping[str, str]:
        """Ids of the jobs in the owner's batch of this name, by the keys of its requests.

        With `retry_failed` those that failed are left out.
        """
        with self._database.read() as connection:
            return _known(connection, owner, name, retry_failed)

    def add(
        self, batch: StoredBatch, rows: Mapping[str, StoredJob], retry_failed: bool = False
    ) -> tuple[StoredBatch, Mapping[str, str]]:
        """Store requests, by their keys: all of them, or none. Those that are `known` stay as they are.

        Returns the owner's batch of this name, and the ids of its jobs by key. Raises QueueFull.
        """
        with self._database.write() as connection:
            earlier = connection.execute(select(*FIELDS).filter_by(owner=batch.owner, name=batch.name)).one_or_none()
            if earlier is None:
                connection.execute(insert(batches).values(_fields_of(batch)))
            else:
                batch = StoredBatch(**earlier._mapping)
            known = dict(_known(connection, batch.owner, batch.name, retry_failed))
            new = {key: job for key, job in rows.items() if key not in known}
            if new:
                unfinished = select(func.count()).select_from(jobs).where(jobs.c.batch_id.is_not(None), IS_UNFINISHED)
                if (waiting := int(connection.execute(unfinished).scalar() or 0)) + len(new) > MAX_WAITING:
                    raise QueueFull(f"{waiting} requests of batches wait already; try again later", RETRY_SECONDS)
                connection.execute(insert(jobs), [_columns_of(job, batch) for job in new.values()])
                _add_rows(connection, batch.id, {key: job.id for key, job in new.items()})
        return batch, known | {key: job.id for key, job in new.items()}

    def get(self, batch_id: str, owner: str | None = None) -> StoredBatch:
        """Get a batch. Raises NotFound, also if it is not `owner`'s; None owns all."""
        with self._database.read() as connection:
            return _get(connection, batch_id, owner)

    def list(self, owner: str | None, after: str | None, limit: int, order: Order) -> tuple[list[StoredBatch], bool]:
        """List at most `limit` batches of an owner by time of creation, after `after`, and whether there are more.

        Raises NotFound if there is no batch `after`.
        """
        query = select(*FIELDS)
        if owner is not None:
            query = query.where(batches.c.owner == owner)
        with self._database.read() as connection:
            last = None if after is None else _get(connection, after, owner)
            edge = None if last is None else (last.created_at, last.id)
            rows, has_more = read_page(connection, query, batches, edge, limit, order)
        return [StoredBatch(**row._mapping) for row in rows], has_more

    def rows(self, batch_id: str) -> Sequence[StoredRow]:
        """The requests of a batch, in the order in which they came."""
        columns = (batch_rows.c.job_id, jobs.c.status, jobs.c.completed_at, jobs.c.error)
        query = select(*columns).select_from(batch_rows.outerjoin(jobs, jobs.c.id == batch_rows.c.job_id))
        query = query.where(batch_rows.c.batch_id == batch_id).order_by(batch_rows.c.number)
        with self._database.read() as connection:
            return [StoredRow(**row._mapping) for row in connection.execute(query)]

    def waiting(self, limit: int) -> Sequence[StoredJob]:
        """Jobs of batches that no replica has taken, those with a deadline first, then by priority and arrival."""
        order = (jobs.c.deadline_at.is_(None), jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
        with self._database.read() as connection:
            found = connection.execute(select(*COLUMNS).where(*WAITS).order_by(*order).limit(limit))
            return [to_job(row) for row in found]

    def fail(
        self, job_ids: Collection[str], at: float, expires_at: float | None, error: VideoError, tells_operator: bool
    ) -> Sequence[str]:
        """End all these jobs with an error, at once; returns the ids of those that were not over before."""
        values = {"status": "failed", "completed_at": at, "expires_at": expires_at, "error": error}
        with self._database.write() as connection:
            return [job_id for job_id in job_ids if end_job(connection, job_id, values, tells_operator)]

    def delete(self, batch_id: str) -> None:
        """Forget a batch and its jobs."""
        with self._database.write() as connection:
            connection.execute(delete(jobs).where(jobs.c.batch_id == batch_id))
            connection.execute(delete(batches).where(batches.c.id == batch_id))


def _fields_of(batch: StoredBatch) -> dict[str, Any]:
    return {column.name: getattr(batch, column.name) for column in FIELDS}


def _columns_of(job: StoredJob, batch: StoredBatch) -> dict[str, Any]:
    return {column.name: getattr(job, column.name) for column in COLUMNS} | {"batch_id": batch.id}


def _known(connection: Connection, owner: str, name: str, retry_failed: bool) -> Mapping[str, str]:
    query = select(batch_rows.c.key_sha256, batch_rows.c.job_id).join(batches, batches.c.id == batch_rows.c.batch_id)
    query = query.where(batches.c.owner == owner, batches.c.name == name)
    if retry_failed:
        query = query.where(batch_rows.c.job_id.not_in(select(jobs.c.id).where(jobs.c.status == "failed")))
    return {row.key_sha256: row.job_id for row in connection.execute(query)}


def _add_rows(connection: Connection, batch_id: str, job_ids: Mapping[str, str]) -> None:
    """Note which jobs are of a batch, by their keys: the place of one that failed, or a new one at the end."""
    of_batch = batch_rows.c.batch_id == batch_id
    number = int(connection.execute(select(func.max(batch_rows.c.number)).where(of_batch)).scalar() or 0)
    for key, job_id in job_ids.items():
        again = update(batch_rows).where(of_batch, batch_rows.c.key_sha256 == key).values(job_id=job_id)
        if connection.execute(again).rowcount == 0:
            number += 1
            row = {"batch_id": batch_id, "number": number, "key_sha256": key, "job_id": job_id}
            connection.execute(insert(batch_rows).values(row))


def _get(connection: Connection, batch_id: str, owner: str | None) -> StoredBatch:
    where: list[ColumnElement[bool]] = [batches.c.id == batch_id]
    if owner is not None:
        where.append(batches.c.owner == owner)
    row = connection.execute(select(*FIELDS).where(*where)).one_or_none() if batch_id.isprintable() else None
    if row is None:
        raise NotFound(f"there is no batch {batch_id!r}")
    return StoredBatch(**row._mapping)
