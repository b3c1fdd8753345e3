"""UploadStore: what the database knows of videos that go to an object store."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import insert, select, update

from ringlight.core.warning import Warnings
from ringlight.server.collection.database import Database
from ringlight.server.collection.ends import IS_UNFINISHED
from ringlight.server.collection.stored import claims, jobs


class UploadStore:
    """Videos that are made and not stored yet, and prefixes that are ours. Safe to use from any thread.

    What a method changed is on the disk when it returns. Every method raises StoreError while the database fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_made(
        self, job_id: str, made_at: float, started_at: float, deaths: int, report: bytes, warnings: Warnings
    ) -> bool:
        """Record that a job's video is whole on the disk: it need not be made again.

        False, and no effect, if it is over or not there.
        """
        values = {
            "status": "in_progress",
            "made_at": made_at,
            "started_at": started_at,
            "deaths": deaths,
            "progress": 99,
            "report": report,
        } | ({"warnings": warnings} if warnings else {})
        with self._database.write() as connection:
            changed = update(jobs).where(jobs.c.id == job_id, IS_UNFINISHED).values(values)
            return connection.execute(changed).rowcount == 1

    def claim(self, media_url: str) -> str:
        """Text that marks a prefix as this database's: the same each time."""
        with self._database.write() as connection:
            query = select(claims.c.claim).where(claims.c.media_url == media_url)
            if (known := connection.execute(query).scalar()) is not None:
                return str(known)
            claim = uuid4().hex
            connection.execute(insert(claims).values(media_url=media_url, claim=claim))
        return claim
