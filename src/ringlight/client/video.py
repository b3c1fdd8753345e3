"""What the server says, as types. Keys that they do not know are left out: a newer server may say more."""

from __future__ import annotations

import msgspec

from ringlight.core.report import MemoryReport, StageReport
from ringlight.core.warning import RequestWarning
from ringlight.engine.jobs import Status


class VideoError(msgspec.Struct, frozen=True):
    """Why a video failed; `code` is stable, `cancelled` where somebody asked for it."""

    code: str
    message: str = ""
    param: str | None = None
    type: str | None = None


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """A video as it stands at one moment. Times are unix seconds; what is not known yet is None.

    `progress` is 0 to 100, and 100 only when completed. `stage`, `step`, `queue_position` (from 1; 0 runs) and
    `eta_seconds` are of a video that is not over; `inference_time_s`, `stages` and `memory` (by rank) of a completed
    one. `restarts` is how often its workers died. `seconds` is the length that was asked for, `duration_seconds` that
    of the video; `warnings` say where it is not what was asked.
    """

    id: str
    status: Status
    created_at: float = 0.0
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    progress: int = 0
    error: VideoError | None = None

    model: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seconds: str | None = None
    duration_seconds: float | None = None
    size: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    flow_shift: float | None = None
    seed: int | None = None
    layout: str | None = None
    priority: int = 0
    user: str | None = None
    remixed_from_video_id: str | None = None
    extended_from_video_id: str | None = None
    warnings: list[RequestWarning] = []

    stage: str | None = None
    step: int | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    restarts: int = 0
    inference_time_s: float | None = None
    stages: list[StageReport] | None = None
    memory: list[MemoryReport] | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a video is: percent, and denoising steps."""

    progress: int
    step: int = 0
    num_steps: int = 0
    stage: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None


class Preview(msgspec.Struct, frozen=True):
    """What a video looks like after a step: a small picture, as bytes of its file."""

    step: int
    image: bytes


class VideoPage(msgspec.Struct, frozen=True):
    """A page of a list, and whether there are more."""

    data: list[Video]
    has_more: bool = False
    last_id: str | None = None


class Model(msgspec.Struct, frozen=True):
    id: str


class ModelPage(msgspec.Struct, frozen=True):
    data: list[Model]
