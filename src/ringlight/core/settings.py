"""ServeSettings: how a server answers, what it keeps, and what it allows. What runs the model is EngineConfig's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import JOBS, LAYOUT, MODEL, OBSERVABILITY, SAFETY, SERVER, setting
from ringlight.core.replicas import IDLE_SECONDS, ReplicaRange
from ringlight.core.request import RequestDefaults, RequestLimits

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

Scheduling = Literal["shortest", "arrival"]
LEAST_MAX_SLOWDOWN = 20.0  # below it a queue that has grown is first come, first served again
LEAST_PRIORITY, MOST_PRIORITY = -10, 10  # of a request; 0 where it says none

ROUND_SIZES = "Make the nearest size that can be made, and say so, where another is asked: 1280x704 for 1280x720."


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a server, as the operator gave them; never written back into.

    `data_dir` holds the database (unless `store_url` names another), every video, and the state to resume from.
    `served_model_name`: what the model is called. Responses say the first, requests may say any, and /v1/models
    lists all. Empty: the checkpoint's name.

    Between the ends of a range of `num_replicas` there are as many as the queue asks for (core.replicas.ReplicaRange).

    Jobs: `scheduling` is their order, and whether one makes way for another. One that has waited `max_slowdown` times
    as long as it takes alone is not overtaken any more; 0 has no such bound. At most `queue_size` wait; a job whose
    workers die is repeated at most `max_repeats` times, from the state saved at most every `save_seconds`.
    `job_timeout` bounds a job from its creation, or a batch's from when it is queued; 0 does not. Videos are kept
    `retention_seconds` after they end (0: for ever), the oldest less long where all need more than `retention_bytes`
    (0: no bound). On SIGTERM a running job may go on for `drain_timeout`; what is not over then is resumed later.

    With a `media_url` a video is completed once it is in that object store, and no longer on this machine's disk. Its
    content is then answered with an address there (`media_redirect`) that works for `media_link_seconds`, as links to
    files on this server do.

    Safety: `api_key_file` has one key a line (`name:key`, `#` starts a comment), others are given in `api_key`.
    Each `image_host` may be fetched from, and each `webhook_host` called, on behalf of requests. `webhook_url` is
    called for every job.

    `round_sizes`: a size that the model cannot make becomes the nearest that it can, instead of being refused.
    `defaults` is what a request leaves out: the checkpoint's, with what the operator changed of them. None: the
    checkpoint's as they are.
    """

    served_model_name: Annotated[
        tuple[str, ...],
        setting(
            "What the model is called, else as its checkpoint; may be repeated: responses say the first, requests may "
            "say any.",
            MODEL,
        ),
    ] = ()
    round_sizes: Annotated[bool, setting(ROUND_SIZES, MODEL)] = False
    num_replicas: Annotated[
        str,
        setting(
            "Copies of the model, each on ranks of its own; one queue. 1..8: as many as the queue asks for; auto: as "
            "many as there is room for at the start.",
            LAYOUT,
            metavar="N|LEAST..MOST|auto",
        ),
    ] = "1"
    scale_up_wait: Annotated[
        float,
        setting(
            "Seconds that a job may wait before there are more replicas; 0: as long as one takes to start.",
            LAYOUT,
            ge=0,
        ),
    ] = 0.0
    scale_down_idle: Annotated[
        float, setting("Seconds after which a replica that was not needed is ended.", LAYOUT, ge=0)
    ] = IDLE_SECONDS

    host: Annotated[str, setting("Address to listen on; others than loopback need keys.", SERVER)] = "127.0.0.1"
    port: Annotated[int, setting("Port to listen on; 0 takes a free one.", SERVER, ge=0, le=65535)] = 8898
    max_connections: Annotated[int, setting("Connections at a time; more are told to come back.", SERVER, ge=1)] = 1024
    cors_origin: Annotated[
        tuple[str, ...], setting("Origin whose pages may call the API from a browser; may be repeated.", SERVER)
    ] = ()

    data_dir: Annotated[str, setting("Folder for videos, jobs and the state to resume from.", JOBS)] = "ringlight-data"
    store_url: Annotated[
        str,
        setting(
            "Database of jobs, such as postgresql+psycopg://user@host/name; empty: SQLite in the data folder.",
            JOBS,
            metavar="URL",
        ),
    ] = ""
    media_url: Annotated[
        str,
        setting(
            "Object store that completed videos go to: s3://bucket/prefix, gs:// or az://; empty: the data folder.",
            JOBS,
            metavar="URL",
        ),
    ] = ""
    media_redirect: Annotated[
        bool, setting("Send who asks for a video to an address of the object store, instead of its bytes.", JOBS)
    ] = True
    media_link_seconds: Annotated[
        int,
        setting("How long such an address works, or a link to a file here, for whoever has it.", JOBS, ge=1, le=604800),
    ] = 3600
    scheduling: Annotated[
        Scheduling,
        setting("shortest: a short video does not wait for a long one, which makes way. arrival: in turn.", JOBS),
    ] = "shortest"
    max_slowdown: Annotated[
        float,
        setting(
            "Shorter videos do not overtake one any more that has waited so many times as long as it takes alone; "
            f"{LEAST_MAX_SLOWDOWN:g} or more; 0: no bound.",
            JOBS,
            ge=0,
        ),
    ] = 0.0
    queue_size: Annotated[int, setting("Jobs that may wait; more are refused.", JOBS, ge=1)] = 256
    job_timeout: Annotated[float, setting("Seconds from a job's creation to its end at most; 0: any.", JOBS, ge=0)] = (
        0.0
    )
    drain_timeout: Annotated[
        float, setting("Seconds that a running job may go on after SIGTERM; later it resumes.", JOBS, ge=0)
    ] = 30.0
    max_repeats: Annotated[int, setting("How often a job is tried again whose workers died.", JOBS, ge=0)] = 2
    save_seconds: Annotated[float, setting("Least seconds between two states to resume from.", JOBS, ge=0)] = 5.0
    preview_seconds: Annotated[float, setting("Least seconds between two preview pictures; 0: none.", JOBS, ge=0)] = 2.0
    retention_seconds: Annotated[float, setting("How long a video is kept after its end; 0: for ever.", JOBS, ge=0)] = (
        7 * 24 * 3600.0
    )
    retention_bytes: Annotated[int, setting("What all videos may need; the oldest go first. 0: any.", JOBS, ge=0)] = 0

    api_key_file: Annotated[str, setting("File with a key a line, as name:key.", SAFETY, metavar="FILE")] = ""
    api_key: Annotated[
        tuple[str, ...],
        setting(
            "A key, as name:key; may be repeated. Others on this machine see flags: prefer a file.",
            SAFETY,
            splits=False,
        ),
    ] = ()
    no_auth: Annotated[bool, setting("Serve whoever reaches the port, without keys.", SAFETY)] = False
    max_body_bytes: Annotated[int, setting("The largest request.", SAFETY, ge=1)] = 80 * 2**20
    image_host: Annotated[
        tuple[str, ...], setting("Host that first frames may be fetched from; may be repeated.", SAFETY)
    ] = ()
    webhook_host: Annotated[
        tuple[str, ...], setting("Host that requests may ask us to call; may be repeated.", SAFETY)
    ] = ()
    webhook_url: Annotated[str, setting("Called at the end of every job.", SAFETY, metavar="URL")] = ""
    webhook_secret_file: Annotated[str, setting("File with the secret (whsec_...) that signs calls.", SAFETY)] = ""

    log_format: Annotated[LogFormat, setting("console: for people. json: one object a line.", OBSERVABILITY)] = (
        "console"
    )
    log_level: Annotated[LogLevel, setting("The least important that is logged.", OBSERVABILITY)] = "info"
    otlp_endpoint: Annotated[
        str, setting("Collector of OpenTelemetry traces; empty: none.", OBSERVABILITY, metavar="URL")
    ] = ""

    limits: RequestLimits = RequestLimits()
    defaults: RequestDefaults | None = None

    def __post_init__(self) -> None:
        _ = self.replicas  # what is no number of replicas is refused at once
        if 0 < self.max_slowdown < LEAST_MAX_SLOWDOWN:
            said = f"--max-slowdown {self.max_slowdown:g}: must be at least {LEAST_MAX_SLOWDOWN:g}, or 0 for no bound"
            raise InvalidSetting(f"{said}; with less, a queue that has grown is first come, first served again")

    @property
    def replicas(self) -> ReplicaRange | None:
        """Range of the number of replicas; None for as many as there is room for. Raises InvalidSetting."""
        return ReplicaRange.parse(self.num_replicas, self.scale_up_wait, self.scale_down_idle)

    @property
    def address(self) -> str:
        """`host` as sockets take it: an IPv6 address may stand in brackets, as it does in a URL."""
        is_bracketed = self.host.startswith("[") and self.host.endswith("]") and ":" in self.host
        return self.host[1:-1] if is_bracketed else self.host
