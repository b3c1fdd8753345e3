"""ServeSettings: how a server answers, what it keeps, and what it allows. What runs the model is EngineConfig's."""

from __future__ import annotations

from typing import Literal

import msgspec

from ringlight.core.request import RequestDefaults, RequestLimits

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator asked of a server; never written back into.

    `data_dir` holds the database (unless `store_url` names another), every video, and the state to resume from.
    `served_model_names` are what the model is called: responses say the first, requests may say any, and /v1/models
    lists all. Empty: the checkpoint's name.

    Jobs: at most `queue_size` wait; a job whose workers die is repeated at most `max_repeats` times, from the state
    saved at most every `save_seconds`. `job_timeout_seconds` bounds a job from its creation, 0 does not. Videos are
    kept `retention_seconds` after they end (0: for ever), the oldest less long where all need more than
    `retention_bytes` (0: no bound). On SIGTERM a running job may go on for `drain_seconds`; what is not over then is
    resumed later.

    Safety: `api_key_file` has one key a line (`name:key`, `#` starts a comment), `api_keys` are given directly.
    `image_hosts` may be fetched from, and `webhook_hosts` called, on behalf of requests. `webhook_url` is called
    for every job.

    `round_sizes`: a size that the model cannot make becomes the nearest that it can, instead of being refused.
    `defaults` is what a request leaves out: the checkpoint's, with what the operator changed of them. None: the
    checkpoint's as they are.
    """

    host: str = "127.0.0.1"
    port: int = 8898
    data_dir: str = "ringlight-data"
    store_url: str = ""
    served_model_names: tuple[str, ...] = ()
    num_replicas: int = 1

    queue_size: int = 256
    max_repeats: int = 2
    save_seconds: float = 5.0
    preview_seconds: float = 2.0
    job_timeout_seconds: float = 0.0
    drain_seconds: float = 30.0
    retention_seconds: float = 7 * 24 * 3600.0
    retention_bytes: int = 0

    api_key_file: str = ""
    api_keys: tuple[str, ...] = ()
    no_auth: bool = False
    max_body_bytes: int = 80 * 2**20
    max_connections: int = 1024
    image_hosts: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    webhook_url: str = ""
    webhook_secret_file: str = ""
    cors_origins: tuple[str, ...] = ()
    limits: RequestLimits = RequestLimits()
    defaults: RequestDefaults | None = None
    round_sizes: bool = False

    log_format: LogFormat = "console"
    log_level: LogLevel = "info"
    otlp_endpoint: str = ""

    @property
    def address(self) -> str:
        """`host` as sockets take it: an IPv6 address may stand in brackets, as it does in a URL."""
        is_bracketed = self.host.startswith("[") and self.host.endswith("]") and ":" in self.host
        return self.host[1:-1] if is_bracketed else self.host
