"""Batches as they are asked for: their requests, each as a call of its own would have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from anyio import to_thread
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ringlight.core.errors import Problem, RinglightError
from ringlight.core.settings import LEAST_PRIORITY, MOST_PRIORITY
from ringlight.server.api.calls import CreateVideo, parse, problem_of, shown
from ringlight.server.api.drafts import to_draft
from ringlight.server.api.parts import Parts
from ringlight.server.collection.view import Draft
from ringlight.server.http.body import Body, sha256_of
from ringlight.server.http.http_error import HttpError, invalid, to_api_error
from ringlight.wire.batch import MAX_REQUESTS, BatchProblem

MAX_BATCH_VALUES = 50 * MAX_REQUESTS
MAX_TOLD = 20  # problems in one message
BATCH_PRIORITY = -5


class CheckBatch(BaseModel):
    """POST /v1/batches/check. As POST /v1/batches; of requests that this would refuse the answer says why."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        min_length=1,
        max_length=256,
        description="Of your choice. What is sent under the same name again is added to that batch, but for requests "
        "that it has already: nothing is made twice.",
    )
    requests: list[dict[str, Any]] = Field(
        min_length=1, max_length=MAX_REQUESTS, description=f"At most {MAX_REQUESTS} in a call."
    )
    priority: int = Field(
        BATCH_PRIORITY,
        ge=LEAST_PRIORITY,
        le=MOST_PRIORITY,
        description="Of requests that say none: behind what is asked one by one.",
    )
    retry_failed: bool = Field(
        False, description="Whether requests that the batch has, and that failed or were cancelled, are made anew."
    )


class CreateBatch(CheckBatch):
    """POST /v1/batches. Each request is as POST /v1/videos takes it, with its pictures by reference."""

    requests: Annotated[
        list[dict[str, Any]],
        BeforeValidator(lambda value: value, json_schema_input_type=list[CreateVideo]),  # they are read one by one
    ] = Field(
        min_length=1,
        max_length=MAX_REQUESTS,
        description=f"At most {MAX_REQUESTS} in a call. Equal ones are as many videos; to be told apart from those of "
        "another call, they have to come in one.",
    )


AnyBatch = TypeVar("AnyBatch", bound=CheckBatch)


class SortedOut(NamedTuple):
    """Drafts for the requests of a batch, by keys that tell which are the same, and the problems of others."""

    drafts: Mapping[str, Draft]
    problems: Sequence[BatchProblem]


def parse_batch(model: type[AnyBatch], body: Body) -> AnyBatch:
    """Parse the call of a body, whose requests are yet to be read. Raises HttpError 400."""
    try:
        return model.model_validate(body.fields)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise invalid([problem_of(dict(item), model) for item in found]) from None


async def sort_out(call: CheckBatch, parts: Parts) -> SortedOut:
    """Read and check every request.

    Raises HttpError for what is not the fault of one of them, such as too many bytes of pictures.
    """
    drafts: dict[str, Draft] = {}
    problems: list[BatchProblem] = []
    copies: Counter[str] = Counter()
    num_bytes, max_bytes = 0, parts.settings.max_body_bytes
    for number, fields in enumerate(call.requests):
        try:
            draft = await _drafted(fields, call.priority, parts)
        except RinglightError as error:
            problems += _problems_of(number, to_api_error(error, parts.videos.tell))
            continue
        num_bytes += sum(map(len, draft.request.pictures.values()))
        if num_bytes > max_bytes:  # addresses have few bytes, and what lies there many
            raise HttpError(413, "body_too_large", f"the pictures of a call may have {max_bytes} bytes; send fewer")
        content = sha256_of(fields)
        copies[content] += 1
        drafts[f"{content}.{copies[content]}"] = draft
    return SortedOut(drafts, problems)


def refusal(problems: Sequence[BatchProblem]) -> HttpError:
    """Error 400 that names what is wrong, as far as it fits into a message."""
    told = [
        Problem(f"requests[{each.request}]" + (f".{each.param}" if each.param else ""), each.message)
        for each in problems
    ]
    error = invalid(told[:MAX_TOLD])
    left = len(told) - MAX_TOLD
    more = f"; and {left} more, which POST /v1/batches/check lists" if left > 0 else ""
    return HttpError(error.status, error.code, error.message + more, param=error.param)


async def _drafted(fields: Mapping[str, Any], priority: int, parts: Parts) -> Draft:
    """Draft of one request, complete and checked. Raises RinglightError."""
    call = parse(CreateVideo, Body(fields=dict(fields), files={}, sha256=""))
    draft = await to_draft(call, {}, parts.videos, parts.image_hosts, parts.webhook_hosts, parts.decoders)
    await to_thread.run_sync(parts.videos.check, draft)
    return msgspec.structs.replace(draft, priority=priority) if call.priority is None else draft


def _problems_of(number: int, error: HttpError) -> list[BatchProblem]:
    """Problems of a request. Raises the error if it is the server's."""
    if error.status >= 500:
        raise error
    if not error.problems:
        message = error.message.removeprefix(f"{error.param}: ")
        return [BatchProblem(request=number, code=error.code, param=error.param, message=message)]
    return [
        BatchProblem(request=number, code=error.code, param=shown(each.field), message=_without_field(each))
        for each in error.problems
    ]


def _without_field(problem: Problem) -> str:
    return str(problem).removeprefix(f"{problem.field}: ")
