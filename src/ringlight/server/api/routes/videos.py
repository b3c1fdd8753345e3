"""Routes of videos as objects: create, retrieve, list, delete, cancel, remix, extend."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from ringlight.engine.job_state import Status
from ringlight.server.api.calls import CreateVideo, ExtendVideo, RemixVideo, parse
from ringlight.server.api.drafts import check_webhook, fetched, to_draft
from ringlight.server.api.following import to_extension, to_remix
from ringlight.server.api.openapi import answers, takes
from ringlight.server.api.parts import Owner, Parts, Served, VideoId
from ringlight.server.api.schemas import VideoDeleted, as_model, poll_after_ms, to_list, to_video
from ringlight.server.collection.paging import Order
from ringlight.server.collection.store import Idempotency
from ringlight.server.collection.view import Draft, View
from ringlight.server.http.body import Body, read_body
from ringlight.server.http.http_error import HttpError, NotImplementedHere
from ringlight.wire.video import Video, VideoList

MAX_KEY_LENGTH = 255
MAX_SEARCH_CHARS = 200
NO_CHARACTERS = "this model knows no characters; describe them in the prompt, or begin with a picture of them"
RETRY_SECONDS = 120.0  # in which a client may send the same again because the answer did not reach it

VIDEO, VIDEO_LIST = as_model(Video), as_model(VideoList)

router = APIRouter(tags=["Videos"])


@router.post(
    "/v1/videos",
    response_model=VIDEO,
    responses=answers(400, 404, 413, 415, 422, 429),
    openapi_extra=takes(CreateVideo),
)
async def create_video(request: Request, response: Response, parts: Served, owner: Owner) -> Video:
    """Ask for a video. It is stored before this answers, and is made whatever happens to the server."""
    body = await read_body(request)
    draft = await drafted(body, parts)
    return shown(await accept(request, body, draft, parts, owner), response)


@router.post("/v1/videos/edits", responses=answers(501), response_model=None)
async def edit_video(owner: Owner) -> None:
    """Edit a video, which this model cannot do; always 501."""
    raise NotImplementedHere("this model cannot edit videos; POST /v1/videos/{id}/remix makes one with another prompt")


@router.post("/v1/videos/characters", responses=answers(501), response_model=None)
async def create_character(owner: Owner) -> None:
    """Create a character, which this model cannot do; always 501."""
    raise NotImplementedHere(NO_CHARACTERS)


@router.get("/v1/videos/characters/{character_id}", responses=answers(501), response_model=None)
async def retrieve_character(character_id: str, owner: Owner) -> None:
    """Retrieve a character, which this model cannot do; always 501."""
    raise NotImplementedHere(NO_CHARACTERS)


@router.post(
    "/v1/videos/extensions",
    response_model=VIDEO,
    responses=answers(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=takes(ExtendVideo),
)
async def extend_video(request: Request, response: Response, parts: Served, owner: Owner) -> Video:
    """Continue from the last frame of a completed video. The result holds both, in one file."""
    body = await read_body(request)
    call = parse(ExtendVideo, body)
    await check_webhook(call.webhook_url, parts.webhook_hosts)
    pictures = await fetched(call, body.files, parts.image_hosts, parts.videos.limits)
    draft = await to_thread.run_sync(to_extension, call, pictures, parts.videos, owner, limiter=parts.decoders)
    return shown(await accept(request, body, draft, parts, owner), response)


@router.post(
    "/v1/videos/{video_id}/remix",
    response_model=VIDEO,
    responses=answers(400, 404, 409, 413, 415, 422, 429),
    openapi_extra=takes(RemixVideo),
)
async def remix_video(request: Request, response: Response, video_id: VideoId, parts: Served, owner: Owner) -> Video:
    """Make a completed video again with another prompt: same settings, same seed, same first picture."""
    body = await read_body(request)
    call = parse(RemixVideo, body)
    await check_webhook(call.webhook_url, parts.webhook_hosts)
    draft = await to_thread.run_sync(to_remix, call, video_id, parts.videos, owner)
    return shown(await accept(request, body, draft, parts, owner), response)


@router.get("/v1/videos", response_model=VIDEO_LIST, responses=answers(400, 404))
def list_videos(
    parts: Served,
    owner: Owner,
    after: Annotated[str | None, Query(description="Id of the last video of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Videos on a page.")] = 20,
    order: Annotated[Order, Query(description="By creation; desc has the newest first.")] = "desc",
    status: Annotated[Status | None, Query(description="Only those that are so.")] = None,
    search: Annotated[
        str, Query(max_length=MAX_SEARCH_CHARS, description="Only those whose prompt has each of these words.")
    ] = "",
) -> VideoList:
    """List the videos of this key."""
    return to_list(*parts.videos.list(owner, after, limit, order, status, search))


@router.get("/v1/videos/{video_id}", response_model=VIDEO, responses=answers(404))
def retrieve_video(response: Response, video_id: VideoId, parts: Served, owner: Owner) -> Video:
    """Retrieve a video: its state, and once it is completed what it took. A failed video is answered with 200 too."""
    return shown(parts.videos.get(video_id, owner), response)


@router.delete("/v1/videos/{video_id}", responses=answers(404))
def delete_video(video_id: VideoId, parts: Served, owner: Owner) -> VideoDeleted:
    """Forget a video and remove its files. If it is being made, that stops."""
    parts.videos.delete(video_id, owner)
    return VideoDeleted(id=video_id)


@router.post("/v1/videos/{video_id}/cancel", response_model=VIDEO, responses=answers(404))
def cancel_video(response: Response, video_id: VideoId, parts: Served, owner: Owner) -> Video:
    """Stop making a video: it fails with the code `cancelled`, at once. A finished one stays as it is."""
    return shown(parts.videos.cancel(video_id, owner), response)


async def drafted(body: Body, parts: Parts) -> Draft:
    """Draft of a call to create a video, complete. Raises HttpError, InvalidRequest, InvalidLayout."""
    call = parse(CreateVideo, body)
    return await to_draft(call, body.files, parts.videos, parts.image_hosts, parts.webhook_hosts, parts.decoders)


async def accept(request: Request, body: Body, draft: Draft, parts: Parts, owner: str) -> View:
    """Accept a draft, once for all requests that are repetitions of each other."""
    view = await to_thread.run_sync(parts.videos.create, draft, owner, idempotency_of(request, body))
    if parts.tracing is not None:
        parts.tracing.follow(view.stored.id, request.headers.get("traceparent"))
    return view


def idempotency_of(request: Request, body: Body) -> Idempotency:
    """Rule for which other requests count as this one. Raises HttpError 400 for a key that is too long.

    With an Idempotency-Key those that have it too. Without one, a request that calls itself a repetition is that of
    the same body within two minutes, and one that does not is new, and is what a repetition of it will find.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        window_seconds = RETRY_SECONDS if is_retry(request) else 0.0
        return Idempotency(f"body:{body.sha256}", body.sha256, window_seconds)
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise HttpError(400, "invalid_request", f"Idempotency-Key: has {len(key)} characters; 1 to {MAX_KEY_LENGTH}")
    return Idempotency(f"key:{key}", body.sha256)


def is_retry(request: Request) -> bool:
    """Whether OpenAI's client says that it has sent this before."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isdecimal() and int(count[:9]) > 0


def shown(view: View, response: Response) -> Video:
    """A video as an answer, which says when to ask again."""
    if (milliseconds := poll_after_ms(view)) is not None:
        response.headers["openai-poll-after-ms"] = str(milliseconds)
    return to_video(view)
