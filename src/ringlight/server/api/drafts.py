"""Drafts: what a call asks for, complete and checked, as our types."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import msgspec
from anyio import CapacityLimiter, to_thread

from ringlight.core.errors import InvalidRequest, Problem
from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import about, upright_size
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.sizes import Size
from ringlight.families.model import ModelSpec
from ringlight.server.api.calls import Call, CreateVideo, ImageReference, Lengthed, shown
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import Draft
from ringlight.server.http.http_error import HttpError
from ringlight.server.safety.outbound import Outbound
from ringlight.server.safety.pictures import check_picture, is_inline, read_inline


async def to_draft(
    call: CreateVideo,
    files: Mapping[str, bytes],
    videos: Videos,
    outbound: Outbound,
    webhooks: Outbound | None = None,
    decoders: CapacityLimiter | None = None,
) -> Draft:
    """Draft of a call, complete and checked, with its pictures fetched and verified.

    `outbound` fetches pictures and `webhooks` may be called when a video is over; None calls nobody. `decoders` bounds
    how many pictures are decoded at a time. Raises HttpError, InvalidRequest, InvalidLayout.
    """
    check_model(call.model, videos.model_names)
    await check_webhook(call.webhook_url, webhooks)
    layout = None if call.layout is None else ParallelLayout.parse(call.layout)
    names = call.pictures(files)
    default_size = (videos.defaults.width, videos.defaults.height)
    complete = partial(_completed, call, videos, follow=names)  # in a thread, for LoRAs may be read
    # Before any picture is fetched.
    request = await to_thread.run_sync(partial(complete, default_size if "image" in names else None))
    pictures = await fetched(call, files, outbound, videos.limits)
    if "image" in pictures:
        size = await to_thread.run_sync(upright_size, pictures["image"], videos.limits, limiter=decoders)
        request = await to_thread.run_sync(complete, size)
    for name, picture in pictures.items():
        await to_thread.run_sync(check_whole, name, picture, request, videos.limits, limiter=decoders)
    request = msgspec.structs.replace(request, **pictures)
    return Draft(
        request=request,
        user=call.user,
        priority=call.priority or 0,
        timeout_seconds=call.timeout_seconds,
        webhook_url=call.webhook_url,
        layout=layout,
        asked_size=call.width_height,
        seconds=asked_seconds(call),
    )


def _completed(call: CreateVideo, videos: Videos, picture_size: Size | None, follow: Collection[str]) -> VideoRequest:
    """Complete the request of a call whose first picture has this size, without the pictures that `follow`.

    Raises InvalidRequest for all that is wrong with it.
    """
    asked = call.asked()
    width, height = call.width_height
    num_frames = frames_for(call, asked["fps"] or videos.defaults.fps, videos.spec)
    asked |= {"width": width, "height": height, "num_frames": num_frames}
    request = videos.complete(call.prompt, picture_size=picture_size, **asked)
    problems: list[Problem] = []
    try:
        request.check(videos.spec, videos.limits, follow)
    except InvalidRequest as error:
        problems += [_as_asked(problem, call) for problem in error.problems]
    try:
        request = videos.with_loras(request)
    except InvalidRequest as error:
        problems += error.problems
    if problems:
        raise InvalidRequest(list(dict.fromkeys(problems)))
    return request


def check_whole(name: str, picture: bytes, request: VideoRequest, limits: RequestLimits) -> None:
    """Raise InvalidRequest unless the picture of this name can be decoded, and fitted to the request's size."""
    with about(name):
        check_picture(picture, request.width, request.height, limits)


async def fetched(
    call: Call, files: Mapping[str, bytes], outbound: Outbound, limits: RequestLimits
) -> dict[str, bytes]:
    """Fetch the pictures of a call, sent as files or named, by their fields in a request.

    Raises HttpError and InvalidRequest.
    """
    found = {}
    for name, field in call.pictures(files).items():
        reference = getattr(call, field)
        found[name] = files[field] if field in files else await _referenced(field, reference, outbound, limits)
    return found


def check_model(model: str | None, model_names: Sequence[str]) -> None:
    """Raise HttpError 404 unless the model is left out or one that is served."""
    if model is not None and model not in model_names:
        served = ", ".join(model_names)
        raise HttpError(404, "model_not_found", f"model: {shown(model)!r} is not served; {served} is", param="model")


async def check_webhook(url: str | None, webhooks: Outbound | None) -> None:
    """Raise HttpError 400 unless the URL is left out or may be called."""
    if url is not None and webhooks is None:
        message = "webhook_url: this server calls no webhooks that requests name"
        raise HttpError(400, "webhook_url_refused", message, param="webhook_url")
    if url is not None and webhooks is not None:
        await webhooks.check(url)


def frames_for(call: Lengthed, fps: int, spec: ModelSpec) -> int | None:
    """Number of frames as given, else the fewest that the model can make and that last as long as `seconds`."""
    given: int | None = call.asked()["num_frames"]
    if given is not None or call.seconds is None:
        return given
    multiple = spec.frame_multiple
    wanted = call.seconds * fps - 1
    return max(0, math.ceil(wanted / multiple - 1e-9)) * multiple + 1


def asked_seconds(call: Lengthed, before: str | None = "0") -> str | None:
    """Length that a call asks for, as answers have it, after a part whose length was asked `before`.

    None if it follows from something else.
    """
    if call.seconds is None or call.asked()["num_frames"] is not None or before is None:
        return None
    return f"{float(before) + call.seconds:g}"


def _as_asked(problem: Problem, call: CreateVideo) -> Problem:
    """Name the field that the client sent: it may have said size for width and height, or seconds for frames."""
    if problem.field in ("width", "height") and call.size is not None:
        return msgspec.structs.replace(problem, field="size", message=f"{problem.field} {problem.message}")
    if problem.field == "num_frames" and call.asked()["num_frames"] is None and call.seconds is not None:
        return msgspec.structs.replace(problem, field="seconds", message=f"num_frames {problem.message}")
    return problem


async def _referenced(field: str, reference: ImageReference, outbound: Outbound, limits: RequestLimits) -> bytes:
    """Fetch a picture that is named in this field and not sent as a file."""
    if reference.file_id is not None:
        raise InvalidRequest.of(field, "file_id is not supported; send the picture or its image_url")
    if reference.image_url is None:
        raise InvalidRequest.of(field, "names no image_url")
    try:
        if is_inline(reference.image_url):
            return await to_thread.run_sync(read_inline, reference.image_url, limits)
        return await outbound.get(reference.image_url)
    except InvalidRequest as error:
        raise error.about(field) from None
    except HttpError as error:
        raise error.about(field) from None
