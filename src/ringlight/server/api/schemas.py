"""What the API answers, as pydantic models: the shapes of OpenAI's Videos API, with more beside them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from ringlight.core.warning import Code
from ringlight.engine.jobs import Status
from ringlight.server.collection.store import StoredError
from ringlight.server.collection.view import View

LEAST_POLL_MS, MOST_POLL_MS, UNKNOWN_POLL_MS = 500, 10_000, 1000
POLLS_TO_THE_END = 50  # of a client that keeps the first interval it was told: it learns of the end 1 % late
EXAMPLE_ID = "video_0c6a1f8a5f3e4b0f9d6b2f1f6f0a7c3e"


class Answer(BaseModel):
    """Every key is always there; what stands below a field is its description in the API's schema."""

    model_config = ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


class VideoError(Answer):
    """Why a video failed."""

    code: str
    """One of a fixed set, such as cancelled, out_of_memory, deadline_exceeded; see the documentation."""
    message: str
    """One line for people, naming the remedy."""
    param: str | None = None
    """The field of the request that is the cause."""
    type: str | None = None
    """invalid_request_error or server_error."""


class StageTime(Answer):
    """One stage of the run, on rank 0."""

    name: str
    seconds: float
    peak_bytes: int


class RankMemory(Answer):
    """Memory of one rank over the run; on a CPU the resident size, on CUDA that of the caching allocator."""

    rank: int
    device: str
    peak_reserved_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    overhead_bytes: int | None = None
    overhead_ratio: float | None = None
    peak_resident_bytes: int | None = None
    idle_resident_bytes: int | None = None
    resident_growth_bytes: int | None = None


class VideoWarning(Answer):
    """Where a video is not quite what was asked."""

    code: Code
    """size_rounded, picture_cropped or prompt_truncated."""
    param: str
    """The field of the request that it is about."""
    given: str
    """What was asked: a size, the picture's size in its own pixels, or the tokens of a prompt."""
    used: str
    """What is made of it: the size, the part of the picture that is used, or the tokens that are read."""
    message: str
    """One line for people."""


class Video(Answer):
    """A video: what was asked, with every default filled in, how far it is, and once it is completed what it took."""

    id: str = Field(examples=[EXAMPLE_ID])
    object: Literal["video"] = "video"
    created_at: int
    """Unix time in seconds."""
    started_at: int | None = None
    """When a replica first took it up."""
    completed_at: int | None = None
    """When it ended, also when it failed."""
    expires_at: int | None = None
    """When its files will be removed; null as long as it is not over, or if they are kept."""
    status: Status
    progress: int = Field(ge=0, le=100)
    """0 to 100. It never falls, and is 100 only when completed."""
    error: VideoError | None = None
    """Why it failed. A cancelled video has failed with the code `cancelled`."""

    model: str
    prompt: str
    negative_prompt: str
    size: str = Field(examples=["1280x704"])
    """Width x height in pixels."""
    width: int
    height: int
    seconds: str = Field(examples=["5"])
    """The length that was asked for, of an extension that of the whole; where none was asked for, the video's own."""
    duration_seconds: float = Field(examples=[5.041667])
    """The video's own length; of an extension, of the whole."""
    num_frames: int
    """Frames that were asked for; an extension adds one less to those of its source."""
    fps: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    seed: int
    layout: str = Field(examples=["u1r2"])
    """How the ranks share the work."""
    priority: int
    user: str | None = None
    remixed_from_video_id: str | None = None
    extended_from_video_id: str | None = None
    warnings: list[VideoWarning]
    """Where the video is not quite what was asked. That a prompt is too long is known once it has been encoded."""

    stage: str | None = None
    """What is being done at the moment."""
    step: int | None = None
    """Denoising steps that are done."""
    queue_position: int | None = None
    """Place in the queue from 1; 0 while it runs, null when it is over."""
    eta_seconds: float | None = None
    """Seconds until it is expected to be completed, as planned and as measured; null while nothing is known."""
    restarts: int = 0
    """How often its workers died; it went on from its last saved step."""
    inference_time_s: float | None = None
    """Seconds that the ranks worked on it. Like stages and memory null until it is completed, and in lists."""
    stages: list[StageTime] | None = None
    memory: list[RankMemory] | None = None


class VideoList(Answer):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: str | None = None
    """What to send as `after` for the next page."""
    has_more: bool


class VideoDeleted(Answer):
    """The video and its files are gone."""

    id: str = Field(examples=[EXAMPLE_ID])
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ErrorBody(Answer):
    """What is wrong, and what to do about it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(Answer):
    """Every answer that is an error."""

    error: ErrorBody


class ModelCard(Answer):
    """A model that is served, with what a request may leave out and what bounds it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the server was started."""
    owned_by: str = "ringlight"
    defaults: dict[str, Any]
    """What is taken for fields that a request leaves out; a seed of null is drawn for each video."""
    limits: dict[str, int]
    """The most that the operator allows."""
    width_multiple: int
    height_multiple: int
    frame_multiple: int
    """num_frames is a multiple of this, and one."""


class ModelList(Answer):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Alive(Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Answer):
    """Videos are being made."""

    status: Literal["ready"] = "ready"


class ReplicaHealth(Answer):
    """One copy of the model."""

    name: str
    status: Literal["starting", "ready", "busy", "lost", "failed", "closed"]
    restarts: int


class Health(Answer):
    """How the server is."""

    status: Literal["ready", "starting", "draining", "failed"]
    replicas: list[ReplicaHealth]
    queue_length: int


class Version(Answer):
    """What runs here."""

    version: str
    model: str
    layout: str
    layout_reason: str
    """Why it is this one: what was asked for, a rule, or what is predicted of this machine."""
    device: str | None = Field(description="What the first replica runs on, once it is ready.")


class Report(Answer):
    """Where every second and every byte of a run went, as `ringlight generate --report` writes it."""

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
        id=stored.id,
        created_at=int(stored.created_at),
        started_at=_whole(stored.started_at),
        completed_at=_whole(stored.completed_at),
        expires_at=_whole(stored.expires_at),
        status=view.status,
        progress=view.progress,
        error=None if stored.error is None else to_error(stored.error),
        model=stored.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        size=f"{request.width}x{request.height}",
        width=request.width,
        height=request.height,
        seconds=stored.seconds or tidy_seconds(stored.duration_seconds),
        duration_seconds=round(stored.duration_seconds, 6),
        num_frames=request.num_frames,
        fps=request.fps,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        flow_shift=request.flow_shift,
        seed=request.seed,
        layout=stored.layout,
        priority=stored.priority,
        user=stored.user,
        remixed_from_video_id=stored.remixed_from,
        extended_from_video_id=stored.continues,
        warnings=[VideoWarning(**msgspec.structs.asdict(warning)) for warning in view.warnings],
        stage=(state.stage or None) if is_running and state else None,
        step=state.step if is_running and state else None,
        queue_position=view.queue_position if view.status in ("queued", "in_progress") else None,
        eta_seconds=view.eta_seconds,
        restarts=max(stored.deaths, 0 if state is None else state.deaths),
        inference_time_s=None if report is None else report.total_seconds,
        stages=None
        if report is None
        else [
            StageTime(name=stage.name, seconds=stage.seconds, peak_bytes=stage.peak_bytes) for stage in report.stages
        ],
        memory=None if report is None else [RankMemory(**msgspec.structs.asdict(memory)) for memory in report.memory],
    )


def to_error(error: StoredError) -> VideoError:
    """Why a job failed, as clients see it."""
    return VideoError(code=error.code, message=error.message, param=error.param, type=error.type)


def to_list(views: list[View], has_more: bool) -> VideoList:
    """A page of jobs as clients see it."""
    data = [to_video(view) for view in views]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=first, last_id=last, has_more=has_more)


def poll_after_ms(view: View) -> int | None:
    """When it is worth asking again, in milliseconds; None for a video that is over."""
    if view.status in ("completed", "failed"):
        return None
    if view.eta_seconds is None:
        return UNKNOWN_POLL_MS
    return min(max(int(1000 * view.eta_seconds / POLLS_TO_THE_END), LEAST_POLL_MS), MOST_POLL_MS)


def tidy_seconds(seconds: float) -> str:
    """Such as "4" or "5.04": two digits at most."""
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
