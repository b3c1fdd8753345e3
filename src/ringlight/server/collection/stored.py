"""Records of a job in the database, and the tables that keep them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from ringlight.core.request import VideoRequest
from ringlight.core.warning import Warnings
from ringlight.engine.job_state import PAUSED, JobState, Pauses, Status
from ringlight.wire.video import VideoError

SCHEMA_VERSION = 6  # of the tables below and VideoError; a row without a field of VideoFields is read with its default


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """Job in the store. Times are seconds since 1970; `completed_at` is when it ended, failed or not.

    `owner` is the name of the API key that made it, "" without keys. The request's image is not in it but in the job's
    folder (`has_image`), its report apart from it (`has_report`). `layout` is a name such as "u1r2". Of `priority` the
    higher goes first. `remixed_from` and `continues` are ids of other videos, of the latter `frames_before` frames come
    first. `progress`, 0 to 100, is what was last stored, `saved_step` the step that a repeat would go on from, and
    `deaths` how often workers died under it. It has made way `pauses` times, in all for `paused_seconds`; where it is
    paused now, those are counted until `paused_at`. `seconds` is the length that was asked for, as an answer has it,
    and `warnings` say where the video is not what was asked. With a `batch_id` it is a request of that batch, and as
    long as it is queued the queue need not have it yet. `made_at` is when its video was whole on the disk, where that
    is to go to an object store before it counts as completed, and `media_url` the one in which it lies.
    """

    id: str
    owner: str
    status: Status = "queued"
    request: VideoRequest
    has_image: bool = False
    model: str
    layout: str
    priority: int = 0
    user: str | None = None
    webhook_url: str | None = None
    remixed_from: str | None = None
    continues: str | None = None
    frames_before: int = 0
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    deadline_at: float | None = None
    progress: int = 0
    saved_step: int = 0
    deaths: int = 0
    pauses: int = 0
    paused_seconds: float = 0.0
    paused_at: float | None = None
    error: VideoError | None = None
    has_report: bool = False
    output_bytes: int = 0
    seconds: str | None = None
    warnings: Warnings = ()
    batch_id: str | None = None
    made_at: float | None = None
    media_url: str | None = None

    @property
    def pictures(self) -> tuple[Literal["image", "last_image"], ...]:
        """The pictures that its request has, by their fields."""
        has_last = self.request.last_image is not None  # without its bytes, which are kept in the job's folder too
        return (*(("image",) if self.has_image else ()), *(("last_image",) if has_last else ()))

    @property
    def duration_seconds(self) -> float:
        """Length of the video in seconds, with the one that it continues."""
        return (self.frames_before + self.request.num_frames) / self.request.fps

    @property
    def known(self) -> JobState:
        """State of the job as the next server knows it."""
        is_paused = self.paused_at is not None
        return JobState(
            status="in_progress" if is_paused else "queued",
            stage=PAUSED if is_paused else "",
            step=self.saved_step,
            saved_step=self.saved_step,
            deaths=self.deaths,
            furthest=self.progress,
            warnings=self.warnings,
        )

    def pauses_at(self, now: float) -> Pauses:
        """Pauses of the job until `now`, also while no server ran."""
        since = 0.0 if self.paused_at is None else max(0.0, now - self.paused_at)
        return Pauses(pauses=self.pauses, paused_seconds=self.paused_seconds + since)


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that came together, under a name that its owner gave. `created_at` is in seconds since 1970."""

    id: str
    owner: str
    name: str
    created_at: float


class StoredRow(msgspec.Struct, frozen=True, kw_only=True):
    """Request of a batch, and its video's state; a `status` of None is that of a deleted one."""

    job_id: str
    status: Status | None = None
    completed_at: float | None = None
    error: VideoError | None = None


class Idempotency(msgspec.Struct, frozen=True):
    """Key by which creations of one owner are the same, if their bodies are equal.

    With `window_seconds` only a job created so recently counts; without, any that is still kept.
    """

    key: str
    body_sha256: str
    window_seconds: float | None = None


class StoredDelivery(msgspec.Struct, frozen=True):
    """Pending report of a job's end: to the request's `url`, or with None to the operator's."""

    event_id: str
    job_id: str
    url: str | None
    created_at: float


class AsJson(TypeDecorator[Any]):
    """Column of JSON for values that msgspec can read and write."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: object) -> Any:
        return msgspec.to_builtins(value)

    def process_result_value(self, value: Any, dialect: object) -> Any:
        return None if value is None else msgspec.convert(value, self.kind)


METADATA = MetaData()

versions = Table("schema_version", METADATA, Column("version", Integer, nullable=False))

jobs = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("request", AsJson(VideoRequest), nullable=False),
    Column("has_image", Boolean, nullable=False),
    Column("model", Text, nullable=False),
    Column("layout", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("user", Text),
    Column("webhook_url", Text),
    Column("remixed_from", Text),
    Column("continues", Text),
    Column("frames_before", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("completed_at", Double),
    Column("expires_at", Double),
    Column("deadline_at", Double),
    Column("progress", Integer, nullable=False),
    Column("saved_step", Integer, nullable=False, server_default="0"),
    Column("deaths", Integer, nullable=False),
    Column("pauses", Integer, nullable=False, server_default="0"),
    Column("paused_seconds", Double, nullable=False, server_default="0"),
    Column("paused_at", Double),
    Column("error", AsJson(VideoError)),
    Column("has_report", Boolean, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
    Column("seconds", Text),
    Column("warnings", AsJson(Warnings), nullable=False, server_default="[]"),
    Column("batch_id", Text),
    Column("made_at", Double),
    Column("media_url", Text),
    Column("report", LargeBinary),
    Index("jobs_by_owner", "owner", "created_at", "id"),
    Index("jobs_by_creation", "created_at", "id"),
    Index("jobs_by_status", "status", "output_bytes"),
    Index("jobs_by_end", "completed_at"),
    Index("jobs_by_expiry", "expires_at"),
)

idempotencies = Table(
    "idempotencies",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("key_sha256", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("job_id", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
)

deliveries = Table(
    "deliveries",
    METADATA,
    Column("event_id", Text, primary_key=True),
    Column("is_operators", Boolean, primary_key=True),
    Column("job_id", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Double, nullable=False, index=True),
)

batches = Table(
    "batches",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("owner", "name"),
    Index("batches_by_owner", "owner", "created_at", "id"),
)

batch_rows = Table(  # they outlive their jobs, so that what was made and deleted is not made again
    "batch_rows",
    METADATA,
    Column("batch_id", Text, ForeignKey(batches.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key_sha256", Text, nullable=False),
    Column("job_id", Text, nullable=False, index=True),
    UniqueConstraint("batch_id", "key_sha256"),
)

claims = Table(  # by which prefixes of object stores are this database's
    "media_claims", METADATA, Column("media_url", Text, primary_key=True), Column("claim", Text, nullable=False)
)

COLUMNS = tuple(jobs.c[name] for name in StoredJob.__struct_fields__)  # all but the report


def to_job(row: Row[Any]) -> StoredJob:
    """Read the job of a row that has COLUMNS, and perhaps others."""
    return StoredJob(**{column.name: row._mapping[column] for column in COLUMNS})
