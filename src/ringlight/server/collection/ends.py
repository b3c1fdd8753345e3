"""Ends of jobs in the database: one a job, and with it whom to tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update

from ringlight.server.collection.stored import deliveries, jobs

IS_UNFINISHED = jobs.c.status.in_(("queued", "in_progress"))


def end_job(connection: Connection, job_id: str, values: Mapping[str, Any], tells_operator: bool) -> bool:
    """End a job with these values of its columns, and record the webhooks to call in the same transaction.

    They are the one that its request names, and the operator's if there is one. False, and no effect, if the job was
    over already or is not there.
    """
    if connection.execute(update(jobs).where(jobs.c.id == job_id, IS_UNFINISHED).values(values)).rowcount == 0:
        return False
    tells_client = bool(connection.execute(select(jobs.c.webhook_url).where(jobs.c.id == job_id)).scalar())
    event = {"event_id": f"evt_{uuid4().hex}", "job_id": job_id, "created_at": values["completed_at"]}
    for is_operators, is_told in ((False, tells_client), (True, tells_operator)):
        if is_told:
            connection.execute(insert(deliveries).values(event | {"is_operators": is_operators}))
    return True
