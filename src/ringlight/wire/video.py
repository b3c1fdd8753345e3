"""Videos on the wire: one, a page of them, and what is told of one while it is made."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ringlight.core.report import MemoryReport, StageReport
from ringlight.core.video_fields import AskedFields
from ringlight.core.warning import RequestWarning
from ringlight.engine.job_state import Status
from ringlight.wire.described import ALWAYS, described

EXAMPLE_ID = "video_0c6a1f8a5f3e4b0f9d6b2f1f6f0a7c3e"


class VideoError(msgspec.Struct, frozen=True):
    """Reason why a video failed."""

    code: Annotated[
        str,
        described("One of a fixed set, such as cancelled, out_of_memory or deadline_exceeded; see the docs."),
    ]
    message: Annotated[str, described("One line for people, naming the remedy.")] = ""
    param: Annotated[str | None, described("The field of the request that is the cause.")] = None
    type: Annotated[str | None, described("invalid_request_error or server_error.")] = None


class Video(AskedFields, frozen=True, kw_only=True):
    """A video: what was asked, with every default filled in, how far it is, and once it is completed what it took."""

    id: Annotated[str, described(examples=[EXAMPLE_ID])]
    object: Literal["video"] = "video"
    created_at: Annotated[int, described("Unix time in seconds.")] = 0
    started_at: Annotated[int | None, described("When a replica first took it up.")] = None
    completed_at: Annotated[int | None, described("When it ended, also when it failed.")] = None
    expires_at: Annotated[
        int | None,
        described("When its files will be removed; null as long as it is not over, or if they are kept."),
    ] = None
    status: Status
    progress: Annotated[int, described("0 to 100. It never falls, and is 100 only when completed.", ge=0, le=100)] = 0
    error: Annotated[
        VideoError | None, described("Why it failed. A cancelled video has failed with the code `cancelled`.")
    ] = None

    model: Annotated[str | None, ALWAYS] = None
    prompt: Annotated[str | None, ALWAYS] = None
    size: Annotated[str | None, described("Width x height in pixels.", always=True, examples=["1280x704"])] = None
    seconds: Annotated[
        str | None,
        described(
            "The length that was asked for, of an extension that of the whole; where none was asked for, the video's "
            "own.",
            always=True,
            examples=["5"],
        ),
    ] = None
    duration_seconds: Annotated[
        float | None,
        described(
            "The video's own length; of an extension, of the whole, to which it adds its frames less one.",
            always=True,
            examples=[5.041667],
        ),
    ] = None
    layout: Annotated[str | None, described("How the ranks share the work.", always=True, examples=["u1r2"])] = None
    layout_reason: Annotated[
        str | None,
        described(
            "Why it is this one. Null of a video that failed or is not queued yet, and in lists of a completed one."
        ),
    ] = None
    priority: int = 0
    user: str | None = None
    remixed_from_video_id: str | None = None
    extended_from_video_id: str | None = None
    batch_id: Annotated[
        str | None, described("The batch that it is a request of; its place in the queue is null until it is queued.")
    ] = None
    pictures: Annotated[
        list[Literal["image", "last_image"]],
        described("Those that it was given, to begin and to end with; each is a variant of its content."),
    ] = msgspec.field(default_factory=list)
    warnings: Annotated[
        list[RequestWarning],
        described(
            "Where the video is not quite what was asked. That a prompt is too long is known once it has been encoded."
        ),
    ] = msgspec.field(default_factory=list)

    stage: Annotated[
        str | None,
        described(
            "What is being done at the moment; `Paused` while it has made way for others, and keeps its progress, "
            "`Recovering` while workers that died are started again, `Uploading` once it is made and on its way to an "
            "object store."
        ),
    ] = None
    step: Annotated[int | None, described("Denoising steps that are done.")] = None
    queue_position: Annotated[
        int | None,
        described(
            "Place in the queue from 1, also while it is paused or its workers start again; 0 while it runs, null when "
            "it is over."
        ),
    ] = None
    eta_seconds: Annotated[
        float | None,
        described("Seconds until it is expected to be completed, as planned and as measured; null while unknown."),
    ] = None
    restarts: Annotated[int, described("How often its workers died; it went on from its last saved step.")] = 0
    pauses: Annotated[int, described("How often it has made way for others.")] = 0
    paused_seconds: Annotated[
        float, described("How long it has waited for its next turns then, also while no server ran.")
    ] = 0.0
    inference_time_s: Annotated[
        float | None,
        described(
            "Seconds that the ranks worked on it. Like stages and memory null until it is completed, and in lists."
        ),
    ] = None
    stages: list[StageReport] | None = None
    memory: list[MemoryReport] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is completed or has failed."""
        return self.status in ("completed", "failed")


class VideoLink(msgspec.Struct, frozen=True, kw_only=True):
    """Link to a file of a video: whoever has it can fetch that, without a key."""

    object: Literal["video.link"] = "video.link"
    url: Annotated[str, described("A path of this server, with what it takes to be let in.")]
    expires_at: Annotated[int, described("Until when it works at most, as Unix time in seconds.")]


class VideoList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: Annotated[str | None, described("What to send as `after` for the next page.")] = None
    has_more: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a video in percent and in denoising steps: the content of a `progress` event."""

    progress: int
    step: int = 0
    num_steps: int = 0
    stage: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None


class PreviewEvent(msgspec.Struct, frozen=True):
    """A small picture of a video after a step, as a data URL. What a `preview` event holds."""

    step: int
    image: str
