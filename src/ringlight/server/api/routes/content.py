"""Routes of what a video holds and tells: its files, its report, its events, and all at once."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse

from ringlight.core.codes import CODES
from ringlight.core.errors import NotFound
from ringlight.server.api.calls import CreateVideo
from ringlight.server.api.openapi import answers, takes
from ringlight.server.api.parts import Documented, Owner, Parts, Served, VideoId
from ringlight.server.api.routes.videos import accept, drafted
from ringlight.server.api.schemas import Report, as_model
from ringlight.server.collection.contents import VARIANTS, Given, Variant
from ringlight.server.collection.media import Method, StoredFile
from ringlight.server.collection.stored import StoredJob
from ringlight.server.collection.view import View
from ringlight.server.http.body import read_body
from ringlight.server.http.content import FileAnswer, client_leaves
from ringlight.server.http.http_error import HttpError
from ringlight.wire.video import VideoLink

WORD = re.compile(r"[a-z0-9]+")
MAX_NAME_CHARS = 60
ID_CHARS = 8
BYTES = {"schema": {"type": "string", "format": "binary"}}
TEXT = {"schema": {"type": "string"}}
EVENT = {
    "schema": {
        "type": "object",
        "properties": {
            "event": {"enum": ["status", "progress", "preview", "done"]},
            "id": {"type": "string"},
            "data": {"type": "string", "description": "JSON: a Video, or what a progress or preview holds."},
        },
    }
}
KINDS = (*(kind.media_type for kind in VARIANTS.values()), "application/octet-stream")
A_FILE: dict[str, Any] = {"content": dict.fromkeys(KINDS, BYTES)}
A_VIDEO: dict[str, Any] = {"content": {"video/mp4": BYTES}}
LINK = as_model(VideoLink)
Asked = Annotated[
    Variant | Given,
    Query(description="The video, a picture of its middle, a sheet of frames, or a picture that it was given."),
]

router = APIRouter(tags=["Content"])


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=Response,
    responses={
        **answers(400, 403, 404, 416, 503),
        200: A_FILE | {"description": "The whole file"},
        206: A_FILE | {"description": "The part of it that Range asks for"},
        304: {"description": "The client has it already"},
        307: {"description": "It lies in an object store: an address there, which works for some time without a key"},
    },
)
@router.head("/v1/videos/{video_id}/content", include_in_schema=False)
async def video_content(
    request: Request,
    video_id: VideoId,
    parts: Served,
    _documented: Documented,
    variant: Asked = "video",
    redirect: Annotated[
        bool, Query(description="Whether the answer may be an address in an object store, where the video lies in one.")
    ] = True,
    expires: Annotated[int, Query(description="Of a link.")] = 0,
    signature: Annotated[str | None, Query(description="Of a link: with it no key is asked for.")] = None,
) -> Response:
    """Download a completed video, or a picture that any video was given.

    Range, If-Range, If-None-Match and HEAD are understood.

    Where videos lie in an object store the answer may be the address of the file there: follow it, without the key.
    """
    seconds, owner = parts.settings.media_link_seconds, None
    if signature is None:
        owner = parts.keys.identify(request.headers.get("authorization"))
    else:
        seconds = min(seconds, parts.links.seconds_left(video_id, variant, expires, signature))
    stored = await to_thread.run_sync(parts.videos.store.get, video_id, owner)
    contents = parts.videos.contents
    if variant == "image" or variant == "last_image":
        given = await to_thread.run_sync(contents.given, stored, variant)
        kind = "application/octet-stream"  # which picture it is its bytes tell
        return FileAnswer(given, kind, variant, is_attachment=True)
    limiter = None if variant == "video" else parts.decoders
    found = await to_thread.run_sync(contents.find, stored, variant, limiter=limiter)
    if isinstance(found, StoredFile) and redirect and parts.settings.media_redirect:
        method: Method = "HEAD" if request.method == "HEAD" else "GET"  # an address is of one method
        address = await found.address(method, seconds)
        return RedirectResponse(address, headers={"cache-control": "no-store"})
    return FileAnswer(found, VARIANTS[variant].media_type, _file_name(stored, variant))


@router.post("/v1/videos/{video_id}/link", response_model=LINK, responses=answers(400, 404))
async def video_link(
    response: Response, video_id: VideoId, parts: Served, owner: Owner, variant: Asked = "video"
) -> VideoLink:
    """Make a link to a file of a video, for what cannot send a key, such as a browser's player.

    Whoever has it can fetch that file, until it is over or the server is started anew."""
    stored = await to_thread.run_sync(parts.videos.store.get, video_id, owner)
    link = parts.links.sign(stored.id, variant)
    response.headers["cache-control"] = "no-store"
    return VideoLink(url=link.url, expires_at=link.expires_at)


@router.get(
    "/v1/videos/{video_id}/report",
    response_model=Report,
    responses={**answers(400, 404), 200: {"content": {"text/plain": TEXT}}},
)
def video_report(
    video_id: VideoId,
    parts: Served,
    owner: Owner,
    format: Annotated[Literal["json", "table"], Query(description="JSON, or Markdown tables.")] = "json",  # noqa: A002
) -> Response:
    """Retrieve the report of a completed video: its time and memory, by stage and by rank."""
    report = parts.videos.report(video_id, owner)
    if format == "table":
        return PlainTextResponse(report.table() + "\n")
    return Response(report.to_json(), media_type="application/json")


@router.get(
    "/v1/videos/{video_id}/events",
    response_class=StreamingResponse,
    responses={
        **answers(404),
        200: {"description": "Events until it is over", "content": {"text/event-stream": EVENT}},
    },
)
async def video_events(video_id: VideoId, parts: Served, owner: Owner) -> Response:
    """Follow a video: `status`, `progress` and `preview` events as they come, and `done` at the end."""
    await parts.watchers.look(video_id, owner)  # a 404 has to come before the stream begins
    return StreamingResponse(
        parts.watchers.events(video_id, owner),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@router.post(
    "/v1/videos/sync",
    response_class=Response,
    responses={
        **answers(400, 404, 409, 413, 415, 422, 429, 504),
        200: A_VIDEO | {"description": "The video; its headers tell id, seed, time and warnings"},
    },
    openapi_extra=takes(CreateVideo),
)
async def create_video_sync(request: Request, parts: Served, owner: Owner) -> Response:
    """Ask for a video and wait for it; the answer is the file. If the client goes away, the video is cancelled.

    With an Idempotency-Key it is not: the same request again waits for the same video.
    """
    body = await read_body(request)
    view = await accept(request, body, await drafted(body, parts), parts, owner)
    video_id = view.stored.id
    end, is_gone = await _end_or_leave(request, video_id, parts, owner)
    if is_gone and "idempotency-key" not in request.headers:
        await to_thread.run_sync(parts.videos.cancel, video_id, owner)
    if end is None:
        reason = "the server is stopping" if parts.watchers.is_closing else "somebody deleted it"
        raise HttpError(503, "unavailable", f"{video_id} was not waited for to its end: {reason}")
    return await _file_of(end, parts)


async def _end_or_leave(request: Request, video_id: str, parts: Parts, owner: str) -> tuple[View | None, bool]:
    """Wait until a video ends or its client leaves. Return the end, None if it cannot be awaited, and which."""
    end, is_gone = None, False
    async with anyio.create_task_group() as group:

        async def until_gone() -> None:
            nonlocal is_gone
            await client_leaves(request.receive)
            is_gone = True
            group.cancel_scope.cancel()

        group.start_soon(until_gone)
        with contextlib.suppress(NotFound):
            end = await parts.watchers.end(video_id, owner)
        group.cancel_scope.cancel()
    return end, is_gone


async def _file_of(view: View, parts: Parts) -> Response:
    """Answer with the video of a job that is over. Raises its error."""
    stored, error = view.stored, view.stored.error
    headers = {"x-video-id": stored.id, "x-seed": str(stored.request.seed)}
    if error is not None:
        status = CODES[error.code].status if error.code in CODES else 500
        raise HttpError(status, error.code, error.message, param=error.param, headers=headers)
    if view.warnings:
        headers["x-warnings"] = ", ".join(warning.code for warning in view.warnings)
    if view.report is not None:
        headers["x-inference-time"] = f"{view.report.total_seconds:.3f}"
    found = await to_thread.run_sync(parts.videos.contents.find, stored, "video")
    return FileAnswer(found, VARIANTS["video"].media_type, _file_name(stored, "video"), headers=headers)


def _file_name(stored: StoredJob, variant: Variant) -> str:
    return readable_name(stored.request.prompt, stored.id, Path(VARIANTS[variant].name).suffix)


def readable_name(prompt: str, video_id: str, ending: str) -> str:
    """File name of a prompt's first words, as far as they are ASCII, and enough of an id to be unique."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    name = ""
    for word in WORD.findall(plain):
        if len(name) + len(word) > MAX_NAME_CHARS:
            break
        name += f"{word}-"
    return f"{name or 'video-'}{video_id.removeprefix('video_')[:ID_CHARS]}{ending}"
