"""What crosses the corridor between the engine and a worker: tagged msgspec structs in MessagePack, never pickle.

Engine -> rank 0: RunJob, CancelJob, Shutdown, which it tells the other ranks. Rank 0 -> engine: StageStarted,
StepFinished, FramesDecoded, JobCompleted, JobFailed. Any rank -> engine: WorkerReady, WorkerFailed, GroupBroken.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ringlight.core.config import EngineConfig
from ringlight.core.errors import Problem
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import RunReport
from ringlight.core.request import RequestLimits, VideoRequest


class RunJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make a video, its ranks laid out so, and write it to `output` (the extension says how)."""

    job_id: str
    request: VideoRequest
    output: str
    layout: ParallelLayout = ParallelLayout()


class CancelJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop this job at its next step; no effect on any other."""

    job_id: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the process once the job in hand is done."""


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Weights are loaded."""

    environment: dict[str, Any]
    load_seconds: float


class StageStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    job_id: str
    stage: str


class StepFinished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A denoising step is done; `step` counts from 1."""

    job_id: str
    step: int
    num_steps: int
    seconds: float


class FramesDecoded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    job_id: str
    num_done: int
    num_frames: int


class JobCompleted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    job_id: str
    report: RunReport


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job ended without a video; the worker lives on. `code` is one of core.errors."""

    job_id: str
    code: str
    message: str
    problems: list[Problem] = []


class WorkerFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker could not start (a bad checkpoint, no such device); it ends after this."""

    code: str
    message: str


class GroupBroken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The ranks are out of step: this one ends, and with it the group. `is_cause`: it knows what began it, and has not
    merely lost another rank."""

    rank: int
    code: str
    message: str
    is_cause: bool


ToWorker = RunJob | CancelJob | Shutdown
JobMessage = StageStarted | StepFinished | FramesDecoded | JobCompleted | JobFailed
FromWorker = (
    WorkerReady | StageStarted | StepFinished | FramesDecoded | JobCompleted | JobFailed | WorkerFailed | GroupBroken
)


class RankPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Which of how many ranks a process is, and where they meet.

    `local_rank` of `num_local` counts on this machine. Ranks meet at a store that rank 0 keeps at `host`:`port`;
    `listener` is the descriptor of a socket that already listens there, -1 where rank 0 is to open one.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    listener: int = -1


class WorkerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told at its start, on its command line."""

    config: EngineConfig
    limits: RequestLimits
    place: RankPlace = RankPlace()


to_worker_decoder = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder = msgspec.msgpack.Decoder(FromWorker)
encode = msgspec.msgpack.encode
