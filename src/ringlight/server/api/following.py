"""Drafts of videos that follow from another one: a remix of it, or its extension."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ringlight.core.errors import InvalidRequest, NotFound
from ringlight.core.request import RequestDefaults, drawn
from ringlight.server.api.calls import Call, ExtendVideo, RemixVideo
from ringlight.server.api.drafts import asked_seconds, check_whole, frames_for
from ringlight.server.collection.derived import last_frame
from ringlight.server.collection.folder import VIDEO_ID
from ringlight.server.collection.store import StoredJob
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import Draft
from ringlight.server.http.http_error import Conflict


def to_remix(call: RemixVideo, source_id: str, videos: Videos, owner: str) -> Draft:
    """Draft a completed video with another prompt. Raises NotFound, Conflict.

    The remix of an extension extends the same video, which must still be there.
    """
    source = _completed(source_id, videos, owner)
    try:
        pictures = videos.contents.pictures(source)
    except FileNotFoundError:  # deleted at this moment
        raise NotFound(f"there is no video {source_id!r}") from None
    asked_seed = call.asked()["seed"]
    seed = source.request.seed if asked_seed is None else drawn(asked_seed)
    request = msgspec.structs.replace(source.request, prompt=call.prompt, seed=seed, **pictures)
    if source.continues is not None:
        videos.contents.find(videos.store.get(source.continues, owner))
    draft = Draft(
        request=request,
        remixed_from=source.id,
        continues=source.continues,
        frames_before=source.frames_before,
        seconds=source.seconds,
    )
    return _as_called(draft, call, source)


def to_extension(call: ExtendVideo, pictures: Mapping[str, bytes], videos: Videos, owner: str) -> Draft:
    """Draft a video that continues from the last frame of a completed one, and may end with a given picture.

    Raises NotFound, Conflict, OutputError, and InvalidRequest, also if the model takes no picture to begin with.

    What the call leaves out is as in that one, but for the seed, which is drawn.
    """
    source = _completed(call.video.id, videos, owner)
    if not videos.spec.takes_picture:
        raise InvalidRequest.of("video", f"cannot be extended: {videos.spec.name} makes videos of text alone")
    before = source.request
    asked = call.asked() | {"num_frames": frames_for(call, before.fps, videos.spec)}
    kept = msgspec.structs.asdict(before)
    for name in ("prompt", "seed", "image", "last_image"):
        del kept[name]
    request = RequestDefaults(**kept).complete(call.prompt, videos.spec, **asked, **pictures)
    if asked["lora"] is not None:  # else those of that video, which has those of every video too
        request = videos.with_loras(request)
    request.check(videos.spec, videos.limits, follow=("image",))  # before a picture is made for nothing
    for name, given in pictures.items():
        check_whole(name, given, request, videos.limits)
    with videos.contents.on_disk(source) as path:
        picture = last_frame(path)
    request = msgspec.structs.replace(request, image=picture)
    frames_before = source.frames_before + before.num_frames - 1  # the last one is the new part's first
    draft = Draft(
        request=request,
        continues=source.id,
        frames_before=frames_before,
        seconds=asked_seconds(call, source.seconds or f"{source.duration_seconds:.2f}"),
    )
    return _as_called(draft, call, source)


def _completed(video_id: str, videos: Videos, owner: str) -> StoredJob:
    """Completed video to follow from. Raises NotFound, and Conflict if it is not completed."""
    if VIDEO_ID.fullmatch(video_id) is None:
        raise NotFound(f"there is no video {video_id[:80]!r}")
    view = videos.get(video_id, owner)
    if view.status != "completed":
        raise Conflict(f"{video_id} is {view.status}; only a completed video can be followed by another")
    return view.stored


def _as_called(draft: Draft, call: Call, source: StoredJob) -> Draft:
    """Draft with the fields that every call can set."""
    return msgspec.structs.replace(
        draft,
        user=call.user if call.user is not None else source.user,
        priority=call.priority or 0,
        timeout_seconds=call.timeout_seconds,
        webhook_url=call.webhook_url,
    )
