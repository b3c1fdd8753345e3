"""Upgrades: what makes the tables of an earlier version those of the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection
from sqlalchemy.schema import CreateColumn

from ringlight.server.collection.stored import batch_rows, batches, claims, deliveries, jobs


def _add_deliveries(connection: Connection) -> None:
    deliveries.create(connection, checkfirst=False)


def _add_what_was_asked(connection: Connection) -> None:
    _add_columns(connection, jobs.c.seconds, jobs.c.warnings)


def _add_columns(connection: Connection, *columns: Column[Any]) -> None:
    for column in columns:
        told = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {jobs.name} ADD COLUMN {told}")


def _add_batches(connection: Connection) -> None:
    _add_columns(connection, jobs.c.batch_id)
    for table in (batches, batch_rows):
        table.create(connection, checkfirst=False)


def _add_pauses(connection: Connection) -> None:
    _add_columns(connection, jobs.c.saved_step, jobs.c.pauses, jobs.c.paused_seconds, jobs.c.paused_at)


def _add_media(connection: Connection) -> None:
    _add_columns(connection, jobs.c.made_at, jobs.c.media_url)
    claims.create(connection, checkfirst=False)


UPGRADES: dict[int, Callable[[Connection], None]] = {
    1: _add_deliveries,
    2: _add_what_was_asked,
    3: _add_batches,
    4: _add_pauses,
    5: _add_media,
}
"""By the version that there is."""
