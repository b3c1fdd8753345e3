"""One page of a table, by time of creation: what a list of the API shows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, Table, tuple_

Order = Literal["asc", "desc"]


def read_page(
    connection: Connection, query: Select[Any], table: Table, after: tuple[float, str] | None, limit: int, order: Order
) -> tuple[Sequence[Row[Any]], bool]:
    """Read at most `limit` rows of a table with `created_at` and `id`, and whether there are more.

    They follow the row with the creation time (seconds) and id of `after`; None: from the first.
    """
    place = tuple_(table.c.created_at, table.c.id)
    query = query.order_by(*(column.asc() if order == "asc" else column.desc() for column in place.clauses))
    if after is not None:
        query = query.where(place > tuple_(*after) if order == "asc" else place < tuple_(*after))
    rows = connection.execute(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
