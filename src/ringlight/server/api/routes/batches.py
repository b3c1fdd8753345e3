"""Routes of batches: create, check, retrieve, list, cancel, delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from ringlight.server.api.asked_batch import MAX_BATCH_VALUES, CheckBatch, CreateBatch, parse_batch, refusal, sort_out
from ringlight.server.api.openapi import answers, takes_json
from ringlight.server.api.parts import BatchId, Owner, Served
from ringlight.server.api.schemas import BatchDeleted, as_model
from ringlight.server.collection.batches import BatchView
from ringlight.server.collection.paging import Order
from ringlight.server.collection.stored import StoredRow
from ringlight.server.http.body import read_json
from ringlight.wire.batch import Batch, BatchCheck, BatchList, BatchRequest, RequestCounts

LEAST_POLL_MS, MOST_POLL_MS, POLL_MS_A_REQUEST = 500, 10_000, 10

BATCH, BATCH_LIST = as_model(Batch), as_model(BatchList)

router = APIRouter(tags=["Batches"])


@router.post(
    "/v1/batches", response_model=BATCH, responses=answers(400, 413, 415, 429), openapi_extra=takes_json(CreateBatch)
)
async def create_batch(request: Request, response: Response, parts: Served, owner: Owner) -> Batch:
    """Ask for many videos, all or none. They are stored before this answers, and made behind those of other calls."""
    call = parse_batch(CreateBatch, await read_json(request, MAX_BATCH_VALUES))
    found = await sort_out(call, parts)
    if found.problems:
        raise refusal(found.problems)
    view = await to_thread.run_sync(parts.batches.add, call.name, found.drafts, owner, call.retry_failed)
    return _shown(view, response)


@router.post(
    "/v1/batches/check",
    response_model=as_model(BatchCheck),
    responses=answers(400, 413, 415),
    openapi_extra=takes_json(CheckBatch),
)
async def check_batch(request: Request, parts: Served, owner: Owner) -> BatchCheck:
    """Check each request of a batch. Nothing is created."""
    call = parse_batch(CheckBatch, await read_json(request, MAX_BATCH_VALUES))
    found = await sort_out(call, parts)
    return BatchCheck(num_requests=len(call.requests), problems=list(found.problems))


@router.get("/v1/batches", response_model=BATCH_LIST, responses=answers(400, 404))
def list_batches(
    parts: Served,
    owner: Owner,
    after: Annotated[str | None, Query(description="Id of the last batch of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Batches on a page.")] = 20,
    order: Annotated[Order, Query(description="By creation; desc has the newest first.")] = "desc",
) -> BatchList:
    """List the batches of this key, without their requests."""
    views, has_more = parts.batches.list(owner, after, limit, order)
    data = [msgspec.structs.replace(to_batch(view), requests=None) for view in views]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(data=data, first_id=first, last_id=last, has_more=has_more)


@router.get("/v1/batches/{batch_id}", response_model=BATCH, responses=answers(404))
def retrieve_batch(response: Response, batch_id: BatchId, parts: Served, owner: Owner) -> Batch:
    """Retrieve a batch: its progress, and how each of its requests ended."""
    return _shown(parts.batches.get(batch_id, owner), response)


@router.delete("/v1/batches/{batch_id}", responses=answers(404))
def delete_batch(batch_id: BatchId, parts: Served, owner: Owner) -> BatchDeleted:
    """Forget a batch, and remove its videos with their files. What is being made stops."""
    parts.batches.delete(batch_id, owner)
    return BatchDeleted(id=batch_id)


@router.post("/v1/batches/{batch_id}/cancel", response_model=BATCH, responses=answers(404))
def cancel_batch(response: Response, batch_id: BatchId, parts: Served, owner: Owner) -> Batch:
    """Stop what is not over of a batch: it fails with the code `cancelled`. What was made stays."""
    return _shown(parts.batches.cancel(batch_id, owner), response)


def _shown(view: BatchView, response: Response) -> Batch:
    """A batch as an answer, which says when to ask again."""
    batch = to_batch(view)
    if batch.status == "in_progress":
        milliseconds = POLL_MS_A_REQUEST * batch.request_counts.total
        response.headers["openai-poll-after-ms"] = str(min(max(milliseconds, LEAST_POLL_MS), MOST_POLL_MS))
    return batch


def to_batch(view: BatchView) -> Batch:
    """A batch as clients see it."""
    stored = view.stored
    requests = [_to_request(row) for row in view.rows]
    ends = [row.completed_at for row in view.rows if row.completed_at is not None]
    is_over = all(request.is_over for request in requests)
    return Batch(
        id=stored.id,
        name=stored.name,
        created_at=int(stored.created_at),
        completed_at=int(max(ends)) if is_over and ends else None,
        status="completed" if is_over else "in_progress",
        request_counts=_counts(requests),
        errors=dict(Counter(request.error.code for request in requests if request.error is not None)),
        requests=requests,
    )


def _counts(requests: Sequence[BatchRequest]) -> RequestCounts:
    counts: Counter[str] = Counter(request.status for request in requests)
    return RequestCounts(total=len(requests), **counts)


def _to_request(row: StoredRow) -> BatchRequest:
    ended_at = row.completed_at
    return BatchRequest(
        video_id=row.job_id,
        status=row.status or "deleted",
        completed_at=None if ended_at is None else int(ended_at),
        error=row.error,
    )
