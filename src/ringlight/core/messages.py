"""Messages between the engine and a worker: tagged msgspec structs in MessagePack, never pickle.

Engine -> rank 0: RunJob, PauseJob, ResumeJob, DropJob, CancelJob, Shutdown, which it tells the other ranks; Ping to any
rank, which answers Pong. Rank 0 -> engine, of a job: StageStarted, Warned, StepFinished, StateSaved, PreviewMade,
FramesDecoded, JobPaused each time it has made way, then Computed, and JobCompleted once the output is written; or
JobFailed at any time. Any rank -> engine: NodesAwaited, WorkerReady, WorkerFailed, PlaceLost, GroupBroken.

Where rank 0 works in a scratch folder (RankPlace) the files of a job travel too, as FileParts that are answered with
PartTaken: what it goes on from before its RunJob, a state before its StateSaved, the output before its JobCompleted.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ringlight.core.config import EngineConfig
from ringlight.core.errors import Problem
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import Abilities, JobPlan
from ringlight.core.report import RunReport
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.warning import RequestWarning


class RunJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make a video, its ranks laid out so, and write it to `output` (the extension says how).

    With a `state_file` what it takes to go on is written there, before the first step, after the last, and at most
    every `save_seconds` in between; where the file is there already, the job goes on from it. A preview is sent at most
    every `preview_seconds`, 0 for none. `continues` is a video whose last frame is the request's first: the output
    holds its frames, then the new ones without the first. All paths are the engine's. `plan` says how; a job that goes
    on keeps the portions that its state says.
    """

    job_id: str
    request: VideoRequest
    output: str
    layout: ParallelLayout = ParallelLayout()
    plan: JobPlan = JobPlan()
    state_file: str = ""
    save_seconds: float = 5.0
    preview_seconds: float = 0.0
    continues: str = ""


class PauseJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pause this job between two denoising steps, if any are left; otherwise it runs to its end.

    With `now` also within a step, where its ranks agree there (JobPlan): it is broken off, once at most, and made again
    when the job is taken up. The ranks keep what it takes to go on. No effect on a job that is not computed now.
    """

    job_id: str
    now: bool = False


class ResumeJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Resume a job that the ranks keep, where it was paused."""

    job_id: str


class DropJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Forget a job that the ranks keep; JobDropped is the only answer. No effect if they keep none of this name."""

    job_id: str


class CancelJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop this job at its next boundary (worker/events); no effect on any other."""

    job_id: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the process once the job in hand is done."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ask whether a process still runs."""

    number: int


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer to the Ping of this number, given whatever else the process does."""

    number: int


FileKind = Literal["source", "state", "output"]  # what a job continues, what it goes on from, what it makes


class FilePart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A part of the files of a job, on their way to the machine at the other end.

    `parcel` is its sender's number for all of them together, `file` which of them this is of, and `offset` where in it
    `content` belongs. The last part of a parcel has no content, and a `checksum` over all: CRC-32 in hex. Each is
    answered with PartTaken.
    """

    parcel: int
    job_id: str
    kind: FileKind
    file: int
    offset: int = 0
    content: bytes = b""
    checksum: str = ""


class PartTaken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A part is written; after a parcel's last part all its files are in their places, and on the disk.

    Or none ever will be, with an `errno` other than 0 and a `problem` in words.
    """

    parcel: int
    errno: int = 0
    problem: str = ""


class NodesAwaited(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nodes that are not there yet while ranks meet; none once all are.

    `remark` says more about them, such as who came and was refused.
    """

    nodes: list[int]
    remark: str = ""


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Weights are loaded: those of the checkpoint with this digest. `abilities` are those of all ranks together."""

    environment: dict[str, Any]
    load_seconds: float
    checkpoint: str = ""
    abilities: Abilities | None = None


class StageStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A stage of the job has started."""

    job_id: str
    stage: str


class Warned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The video will not be quite what was asked."""

    job_id: str
    warning: RequestWarning


class StepFinished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A denoising step is done; `step` counts from 1."""

    job_id: str
    step: int
    num_steps: int
    seconds: float


class StateSaved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job's state after this many steps is on the disk: what is repeated begins there."""

    job_id: str
    step: int


class JobPaused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job is paused after this many steps, and the ranks are free for another.

    They keep it, in `held_bytes` of the memory of rank 0, and of each other one but for a token or so. If it has a file
    its state is being written: StateSaved follows.
    """

    job_id: str
    step: int
    held_bytes: int


class JobDropped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to DropJob, where files travel: those of the job that were on their way have come, or never will."""

    job_id: str


class PreviewMade(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A small JPEG picture of what the video will be, as far as can be told after this many steps."""

    job_id: str
    step: int
    picture: bytes


class FramesDecoded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Some of the video's frames are decoded."""

    job_id: str
    num_done: int
    num_frames: int


class Computed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The ranks are free for the next job; the output of this one is still being written."""

    job_id: str


class JobCompleted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The video is written, and this is its report."""

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


class PlaceLost(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The place of this rank may be given to another, because whoever gave it has ended.

    The rank finishes its work and begins nothing more.
    """

    rank: int
    message: str


class GroupBroken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The ranks are out of step: this one ends, and with it the group.

    `is_cause`: it knows the first cause, and has not merely lost another rank.
    """

    rank: int
    code: str
    message: str
    is_cause: bool


Order = RunJob | ResumeJob | DropJob | Shutdown  # what ranks do one after another
Carried = FilePart | PartTaken  # both ways
ToWorker = Order | PauseJob | CancelJob | Ping | Carried
JobMessage = (
    StageStarted
    | Warned
    | StepFinished
    | StateSaved
    | JobPaused
    | PreviewMade
    | FramesDecoded
    | Computed
    | JobCompleted
    | JobFailed
)
FromWorker = (
    NodesAwaited | WorkerReady | Pong | JobMessage | JobDropped | Carried | WorkerFailed | PlaceLost | GroupBroken
)


class RankPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Position of a process among all ranks, and their meeting point.

    `local_rank` of `num_local` counts on this machine, where the first rank has device `first_device`, and which others
    see at `address`. Ranks meet at a store that rank 0 keeps at `host`:`port`; `listener` is the descriptor of a socket
    that already listens there, which rank 0 is given, and -1 for all others. `shelf` is the descriptor of memory of
    this machine in which all of its ranks, `num_sharing` with those of other replicas, keep one copy of the weights, -1
    where each has them on its device. `scratch` is a folder of rank 0's machine in which it works, where that machine
    need not have the engine's files; empty where their paths are the same.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local: int = 1
    address: str = "127.0.0.1"
    host: str = "127.0.0.1"
    port: int = 0
    listener: int = -1
    first_device: int = 0
    shelf: int = -1
    num_sharing: int = 1
    scratch: str = ""

    @property
    def num_nodes(self) -> int:
        """Number of machines, each with equally many ranks."""
        return self.num_ranks // self.num_local

    @property
    def node_rank(self) -> int:
        """Index of this machine among the nodes."""
        return self.rank // self.num_local

    @property
    def meeting(self) -> str:
        """Meeting point of the ranks, as HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def inherited(self) -> list[int]:
        """Descriptors that the process is given."""
        return [descriptor for descriptor in (self.listener, self.shelf) if descriptor >= 0]


class WorkerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a worker, passed on its command line.

    `checkpoint` is the digest of the one that workers had loaded before, empty at a first start.
    """

    config: EngineConfig
    limits: RequestLimits
    place: RankPlace = RankPlace()
    checkpoint: str = ""


order_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
to_worker_decoder = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder = msgspec.msgpack.Decoder(FromWorker)
encode = msgspec.msgpack.encode
