"""Answers of the API as pydantic models: the shapes of OpenAI's Videos API, with more beside them."""

from __future__ import annotations

import functools
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from ringlight.core.video_fields import ALWAYS_THERE, VIDEO_FIELDS
from ringlight.server.collection.view import View
from ringlight.wire.batch import EXAMPLE_BATCH_ID
from ringlight.wire.video import EXAMPLE_ID, Video, VideoList

LEAST_POLL_MS, MOST_POLL_MS, UNKNOWN_POLL_MS = 500, 10_000, 1000
POLLS_TO_THE_END = 50  # of a client that keeps the first interval it was told: it learns of the end 1 % late


class Answer(BaseModel):
    """Every key is always there; what stands below a field is its description in the API's schema."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


@functools.cache
def as_model(kind: type[msgspec.Struct]) -> type[Answer]:
    """Make the pydantic model of a struct that is answered: its own fields first, and null only where ours may be."""
    own = kind.__annotations__
    fields = sorted(msgspec.structs.fields(kind), key=lambda field: field.name not in own)
    given: dict[str, Any] = {field.name: _field(field) for field in fields}
    return create_model(kind.__name__, __base__=Answer, __doc__=kind.__doc__, __module__=__name__, **given)


def _field(field: msgspec.structs.FieldInfo) -> tuple[Any, Any]:
    """A field of a struct, as pydantic has it."""
    meta = next((each for each in get_args(field.type) if isinstance(each, msgspec.Meta)), msgspec.Meta())
    extra, kind = meta.extra or {}, _as_pydantic(field.type)
    is_always_there = field.name in ALWAYS_THERE if "rules" in extra else bool(extra.get("always"))
    if is_always_there:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    has_default = not (field.required or is_always_there)
    how: dict[str, Any] = {"description": meta.description, "examples": meta.examples, "ge": meta.ge, "le": meta.le}
    if has_default and field.default_factory is not msgspec.NODEFAULT:
        return kind, Field(default_factory=field.default_factory, **how)
    return kind, Field(field.default if has_default else ..., **how)


def _as_pydantic(kind: Any) -> Any:
    """A type with models in the places of structs."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return as_model(kind)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _as_pydantic(parts[0])
    if not parts or origin is Literal:
        return kind
    converted = tuple(map(_as_pydantic, parts))
    return Union[converted] if origin in (Union, UnionType) else origin[converted]  # noqa: UP007 (of a tuple)


class VideoDeleted(Answer):
    """The video and its files are gone."""

    id: str = Field(examples=[EXAMPLE_ID])
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class BatchDeleted(Answer):
    """The batch is gone, and its videos with it."""

    id: str = Field(examples=[EXAMPLE_BATCH_ID])
    object: Literal["batch.deleted"] = "batch.deleted"
    deleted: Literal[True] = True


class Alive(Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Answer):
    """Videos are being made, or will be once there is one to make."""

    status: Literal["ready", "asleep", "waking"] = Field(
        description="asleep: no replica is there, as nothing is to be made; waking: the first one starts."
    )
    message: str | None = Field(None, description="What there is to wait for; null where there is nothing.")


class ReplicaHealth(Answer):
    """One copy of the model."""

    name: str
    status: Literal["starting", "ready", "busy", "lost", "failed", "closed"]
    restarts: int
    reason: str = Field(description="Why it is not ready, where that is known.")


class MediaHealth(Answer):
    """The object store that completed videos go to. While it is away, those that are made wait for it."""

    status: Literal["ready", "away"]
    problem: str | None = Field(description="Why it is away; the server's log says more.")
    uploads_waiting: int


class Health(Answer):
    """State of the server."""

    status: Literal["ready", "asleep", "waking", "starting", "draining", "failed"]
    replicas: list[ReplicaHealth]
    replicas_wanted: int = Field(description="How many the queue asks for, within --num-replicas.")
    replicas_ready: int
    replicas_pending: int = Field(description="Those that are there, or on their way, and not ready.")
    queue_length: int
    media: MediaHealth | None = Field(description="null where videos stay in the data folder.")


class Version(Answer):
    """Versions of what runs here."""

    version: str
    model: str
    layout: str
    layout_reason: str = Field(
        description="Why it is this one: what was asked for, a rule, or what is predicted of this machine."
    )
    device: str | None = Field(description="What the first replica runs on, once it is ready.")


class Report(Answer):
    """Time and memory of a run, as `ringlight generate --report` writes it."""

    model_config = ConfigDict(extra="allow")

    schema_version: int
    total_seconds: float
    layout: str


def to_video(view: View) -> Video:
    """A job as clients see it."""
    stored, state, report = view.stored, view.state, view.report
    request = stored.request
    is_running = view.status == "in_progress" and state is not None
    return Video(
        **{field.name: getattr(request, field.name) for field in VIDEO_FIELDS},
        id=stored.id,
        created_at=int(stored.created_at),
        started_at=_whole(stored.started_at),
        completed_at=_whole(stored.completed_at),
        expires_at=_whole(stored.expires_at),
        status=view.status,
        progress=view.progress,
        error=stored.error,
        model=stored.model,
        prompt=request.prompt,
        size=f"{request.width}x{request.height}",
        seconds=stored.seconds or tidy_seconds(stored.duration_seconds),
        duration_seconds=round(stored.duration_seconds, 6),
        layout=stored.layout,
        layout_reason=view.layout_reason or None,
        priority=stored.priority,
        user=stored.user,
        remixed_from_video_id=stored.remixed_from,
        extended_from_video_id=stored.continues,
        batch_id=stored.batch_id,
        pictures=list(stored.pictures),
        warnings=list(view.warnings),
        stage=(state.stage or None) if is_running and state else None,
        step=state.step if is_running and state else None,
        queue_position=view.queue_position if view.status in ("queued", "in_progress") else None,
        eta_seconds=view.eta_seconds,
        restarts=max(stored.deaths, 0 if state is None else state.deaths),
        pauses=view.pauses.pauses,
        paused_seconds=round(view.pauses.paused_seconds, 3),
        inference_time_s=None if report is None else report.total_seconds,
        stages=None if report is None else report.stages,
        memory=None if report is None else report.memory,
    )


def to_list(views: list[View], has_more: bool) -> VideoList:
    """A page of jobs as clients see it."""
    data = [to_video(view) for view in views]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=first, last_id=last, has_more=has_more)


def poll_after_ms(view: View) -> int | None:
    """Milliseconds until it is worth asking again; None for a video that is over."""
    if view.status in ("completed", "failed"):
        return None
    if view.eta_seconds is None:
        return UNKNOWN_POLL_MS
    return min(max(int(1000 * view.eta_seconds / POLLS_TO_THE_END), LEAST_POLL_MS), MOST_POLL_MS)


def tidy_seconds(seconds: float) -> str:
    """Seconds as text with two decimals at most, such as "4" or "5.04"."""
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
