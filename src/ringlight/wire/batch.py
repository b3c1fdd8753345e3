"""Batches on the wire: many requests under one name, and how far they are."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ringlight.wire.described import described
from ringlight.wire.video import EXAMPLE_ID, VideoError

MAX_REQUESTS = 1000  # in a call
EXAMPLE_BATCH_ID = "batch_5b1d7c0f2a4e4f6c8d9e0a1b2c3d4e5f"

RowStatus = Literal["queued", "in_progress", "completed", "failed", "deleted"]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch: a video, as `/v1/videos` has it."""

    video_id: Annotated[str, described(examples=[EXAMPLE_ID])]
    status: Annotated[RowStatus, described("As the video's; deleted: it is gone, and is not made again.")]
    completed_at: Annotated[int | None, described("When it ended, also when it failed; Unix time in seconds.")] = None
    error: Annotated[VideoError | None, described("Why it failed.")] = None

    @property
    def is_over(self) -> bool:
        return self.status not in ("queued", "in_progress")


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a batch's requests by status."""

    total: int = 0
    queued: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    deleted: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were sent together, and how far they are."""

    id: Annotated[str, described(examples=[EXAMPLE_BATCH_ID])]
    object: Literal["batch"] = "batch"
    name: str
    created_at: Annotated[int, described("Unix time in seconds.")] = 0
    completed_at: Annotated[int | None, described("When its last video ended; null as long as one is not over.")] = None
    status: Annotated[Literal["in_progress", "completed"], described("completed: no video is left to be made.")]
    request_counts: Annotated[RequestCounts, described("By the status of each request.")]
    errors: Annotated[dict[str, int], described("How many failed, by the code of their error.")] = {}
    requests: Annotated[
        list[BatchRequest] | None,
        described(
            "All, in the order in which they came; in the answer to a creation those of the call. Null in lists."
        ),
    ] = None

    @property
    def is_over(self) -> bool:
        """Whether no video of it is left to be made."""
        return self.status == "completed"


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None = None
    last_id: Annotated[str | None, described("What to send as `after` for the next page.")] = None
    has_more: bool = False


class BatchProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with one request of a batch."""

    request: Annotated[int, described("Its place in the list, from 0.")]
    code: str
    param: Annotated[str | None, described("The field that is wrong.")] = None
    message: str


class BatchCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Problems of the requests of a batch; none if `problems` is empty."""

    object: Literal["batch.check"] = "batch.check"
    num_requests: int
    problems: list[BatchProblem]
