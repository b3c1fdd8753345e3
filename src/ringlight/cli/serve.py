"""`ringlight serve`: an HTTP server for videos from one checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ringlight.cli import listing, machine, settings
from ringlight.cli.nodes import keep_hosting
from ringlight.cli.request_flags import ROUND_SIZES_HELP
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig, NodesConfig, read_defaults
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.kernels import AUTO
from ringlight.core.layout import AskedLayout
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.core.settings import LogFormat, LogLevel, ServeSettings
from ringlight.core.spec import ModelSpec
from ringlight.planner.costs import ORDINARY_PROMPT

MODEL, SERVER, JOBS, SAFETY, SIGHT = "Model", "Server", "Jobs", "Safety", "Observability"
USUAL = ServeSettings()


class ModelType(StrEnum):
    diffusion = "diffusion"


def serve(
    ctx: typer.Context,
    model_path: machine.ModelPath,
    model_type: Annotated[ModelType, typer.Option(help="What kind of model it is.", rich_help_panel=MODEL)] = (
        ModelType.diffusion
    ),
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            help="What the model is called, else as its checkpoint; may be repeated: responses say the first, requests "
            "may say any.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            help="What a request leaves out, such as num_frames=81; over the checkpoint's ringlight.json.",
            metavar="KEY=VALUE",
            rich_help_panel=MODEL,
        ),
    ] = None,
    round_sizes: Annotated[bool, typer.Option(help=ROUND_SIZES_HELP, rich_help_panel=MODEL)] = USUAL.round_sizes,
    device: machine.Device = machine.DeviceChoice.auto,
    dtype: machine.Dtype = machine.DtypeChoice.auto,
    vae_dtype: machine.VaeDtype = machine.VaeDtypeChoice.float32,
    attention: machine.Attention = AUTO,
    load_format: machine.LoadFormat = machine.LoadFormatChoice.auto,
    num_threads: machine.NumThreads = 0,
    tf32: machine.Tf32 = True,
    decode_chunk: machine.DecodeChunk = 0,
    warm_up: machine.WarmUp = True,
    num_gpus: machine.NumGpus = None,
    sp_degree: machine.SpDegree = None,
    ulysses_degree: machine.UlyssesDegree = None,
    ring_degree: machine.RingDegree = None,
    cfg_degree: machine.CfgDegree = None,
    num_slices: machine.NumSlices = 0,
    calibration: machine.Calibration = "",
    memory_check: machine.MemoryCheck = True,
    num_replicas: machine.NumReplicas = USUAL.num_replicas,
    nnodes: machine.NumNodes = 1,
    node_rank: machine.NodeRank = 0,
    dist_init_addr: machine.DistInitAddr = "",
    startup_timeout: machine.StartupTimeout = 1800.0,
    watchdog_timeout: machine.WatchdogTimeout = 10.0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need keys.", rich_help_panel=SERVER)
    ] = USUAL.host,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.", rich_help_panel=SERVER)
    ] = USUAL.port,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at a time; more are told to come back.", rich_help_panel=SERVER)
    ] = USUAL.max_connections,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may call the API from a browser; may be repeated.", rich_help_panel=SERVER
        ),
    ] = None,
    data_dir: Annotated[
        str, typer.Option(help="Folder for videos, jobs and the state to resume from.", rich_help_panel=JOBS)
    ] = USUAL.data_dir,
    store_url: Annotated[
        str,
        typer.Option(
            help="Database of jobs, such as postgresql+psycopg://user@host/name; empty: SQLite in the data folder.",
            metavar="URL",
            rich_help_panel=JOBS,
        ),
    ] = USUAL.store_url,
    queue_size: Annotated[
        int, typer.Option(min=1, help="Jobs that may wait; more are refused.", rich_help_panel=JOBS)
    ] = USUAL.queue_size,
    job_timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds from a job's creation to its end at most; 0: any.", rich_help_panel=JOBS),
    ] = USUAL.job_timeout_seconds,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds that a running job may go on after SIGTERM; later it resumes.", rich_help_panel=JOBS
        ),
    ] = USUAL.drain_seconds,
    max_repeats: Annotated[
        int, typer.Option(min=0, help="How often a job is tried again whose workers died.", rich_help_panel=JOBS)
    ] = USUAL.max_repeats,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Least seconds between two states to resume from.", rich_help_panel=JOBS)
    ] = USUAL.save_seconds,
    preview_seconds: Annotated[
        float, typer.Option(min=0, help="Least seconds between two preview pictures; 0: none.", rich_help_panel=JOBS)
    ] = USUAL.preview_seconds,
    retention_seconds: Annotated[
        float, typer.Option(min=0, help="How long a video is kept after its end; 0: for ever.", rich_help_panel=JOBS)
    ] = USUAL.retention_seconds,
    retention_bytes: Annotated[
        int, typer.Option(min=0, help="What all videos may need; the oldest go first. 0: any.", rich_help_panel=JOBS)
    ] = USUAL.retention_bytes,
    api_key_file: Annotated[
        str, typer.Option(help="File with a key a line, as name:key.", metavar="FILE", rich_help_panel=SAFETY)
    ] = USUAL.api_key_file,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key, as name:key; may be repeated. Others on this machine see flags: prefer a file.",
            rich_help_panel=SAFETY,
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve whoever reaches the port, without keys.", rich_help_panel=SAFETY)
    ] = USUAL.no_auth,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, help="The largest request.", rich_help_panel=SAFETY)
    ] = USUAL.max_body_bytes,
    image_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that first frames may be fetched from; may be repeated.", rich_help_panel=SAFETY),
    ] = None,
    webhook_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that requests may ask us to call; may be repeated.", rich_help_panel=SAFETY),
    ] = None,
    webhook_url: Annotated[
        str, typer.Option(help="Called at the end of every job.", metavar="URL", rich_help_panel=SAFETY)
    ] = USUAL.webhook_url,
    webhook_secret_file: Annotated[
        str, typer.Option(help="File with the secret (whsec_...) that signs calls.", rich_help_panel=SAFETY)
    ] = USUAL.webhook_secret_file,
    log_format: Annotated[
        LogFormat, typer.Option(help="console: for people. json: one object a line.", rich_help_panel=SIGHT)
    ] = USUAL.log_format,
    log_level: Annotated[
        LogLevel, typer.Option(help="The least important that is logged.", rich_help_panel=SIGHT)
    ] = USUAL.log_level,
    otlp_endpoint: Annotated[
        str, typer.Option(help="Collector of OpenTelemetry traces; empty: none.", metavar="URL", rich_help_panel=SIGHT)
    ] = USUAL.otlp_endpoint,
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file of settings: names of flags, and limits and defaults as maps.",
            metavar="FILE",
            envvar="RINGLIGHT_CONFIG",
            is_eager=True,
            callback=settings.state,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every setting with its source, and the layout; serve nothing.")
    ] = False,
) -> None:
    """Serve videos from a checkpoint over HTTP, as OpenAI's Videos API with more; the page is at /, the API at /docs.

    A setting comes from its flag, else from the environment (RINGLIGHT_PORT for --port, several values with commas
    between them), else from the YAML file (port: 8898), else it is the default. Limits of requests have no flags:
    RINGLIGHT_MAX_PIXELS, MAX_FRAMES, MAX_STEPS, MAX_PROMPT_CHARS, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, or `limits:` in
    the file; `defaults:` there is --default.

    SIGTERM and Ctrl-C let a running job go on for --drain-timeout and keep the rest for the next start; a second one
    stops at once. With --nnodes the same command runs on every node; nodes above 0 only host ranks.

    Exit codes: 0, 2 usage, 3 invalid setting, checkpoint or installation, 4 worker failure, 130 interrupted.
    """
    engine_config = EngineConfig(
        model_path=model_path,
        device=device.value,
        dtype=dtype.value,
        vae_dtype=vae_dtype.value,
        attention=attention,
        load_format=load_format.value,
        num_threads=num_threads,
        tf32=tf32,
        decode_chunk=decode_chunk,
        startup_timeout_seconds=startup_timeout,
        watchdog_seconds=watchdog_timeout,
        asked_layout=AskedLayout(
            num_gpus=num_gpus,
            sp_degree=sp_degree,
            ulysses_degree=ulysses_degree,
            ring_degree=ring_degree,
            cfg_degree=cfg_degree,
        ),
        nodes=NodesConfig(num_nodes=nnodes, node_rank=node_rank, init_address=dist_init_addr, refuses_alone=True),
        num_slices=num_slices,
        warm_up=warm_up,
        calibration=calibration,
        memory_check=memory_check,
    )
    stated: settings.Stated = ctx.obj
    folder = find_checkpoint(model_path)
    spec = ModelSpec.read(folder)
    said_limits = stated.limits()
    said_defaults = stated.defaults(default or (), read_defaults(folder))
    limits = RequestLimits(**settings.values(said_limits))
    defaults = RequestDefaults(**settings.values(said_defaults))
    check_defaults(said_defaults, defaults, spec, limits)
    typical = defaults.complete(ORDINARY_PROMPT, spec)
    serve_settings = ServeSettings(
        host=host,
        port=port,
        data_dir=data_dir,
        store_url=store_url,
        served_model_names=settings.split_lists(served_model_name or ()),
        num_replicas=num_replicas,
        queue_size=queue_size,
        max_repeats=max_repeats,
        save_seconds=save_seconds,
        preview_seconds=preview_seconds,
        job_timeout_seconds=job_timeout,
        drain_seconds=drain_timeout,
        retention_seconds=retention_seconds,
        retention_bytes=retention_bytes,
        api_key_file=api_key_file,
        api_keys=tuple(api_key or ()),
        no_auth=no_auth,
        max_body_bytes=max_body_bytes,
        max_connections=max_connections,
        image_hosts=settings.split_lists(image_host or ()),
        webhook_hosts=settings.split_lists(webhook_host or ()),
        webhook_url=webhook_url,
        webhook_secret_file=webhook_secret_file,
        cors_origins=settings.split_lists(cors_origin or ()),
        limits=limits,
        defaults=defaults,
        round_sizes=round_sizes,
        log_format=log_format,
        log_level=log_level,
        otlp_endpoint=otlp_endpoint,
    )
    # Here, because it takes as long to import as all else together, and other commands do not need it.
    from ringlight.server.app import check, create_app, engine_of, run

    if dry_run:
        checked = check(serve_settings, engine_config)
        print(listing.of_command(ctx, said_limits, said_defaults))
        called = ", ".join(serve_settings.served_model_names or (spec.name,))
        print(f"\nmodel   {called}\nlayout  {checked.engine.choice.reason}\nfolder  {Path(data_dir).absolute()}")
        for occupied in checked.occupied:
            print(f"ringlight: a start at this moment would be refused: {occupied}", file=sys.stderr)
        return
    if node_rank > 0:
        engine_of(serve_settings, engine_config)  # refuses what node 0 refuses
        return keep_hosting(engine_config, typical)
    run(create_app(serve_settings, engine_config), serve_settings)


def check_defaults(
    said: Mapping[str, settings.Said], defaults: RequestDefaults, spec: ModelSpec, limits: RequestLimits
) -> None:
    """Raise InvalidSetting where the operator gave defaults that no request can be made with."""
    given = {name for name, each in said.items() if each.source not in settings.OF_CHECKPOINT}
    if given & {"width", "height"}:
        given.add("size")
    try:
        defaults.complete("a prompt", spec).check(spec, limits)
    except InvalidRequest as error:
        if problems := [str(problem) for problem in error.problems if problem.field in given]:
            raise InvalidSetting(f"defaults: {'; '.join(problems)}") from None
