"""`ringlight serve`: an HTTP server for videos from one checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec.structs import replace

from ringlight.cli import listing, settings
from ringlight.cli.flags import with_flags
from ringlight.cli.nodes import keep_hosting
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.fields import MODEL
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.core.settings import ServeSettings
from ringlight.engine.engine import Engine
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import model_defaults, read_model, recognised


@with_flags(usual={"warm_up": True}, engine=EngineConfig, server=ServeSettings)
def serve(
    ctx: typer.Context,
    *,
    model_type: Annotated[
        Literal["diffusion"], typer.Option(help="What kind of model it is.", rich_help_panel=MODEL)
    ] = "diffusion",
    default: Annotated[
        list[str] | None,
        typer.Option(
            help="What a request leaves out, such as num_frames=81; over the checkpoint's ringlight.json.",
            metavar="KEY=VALUE",
            rich_help_panel=MODEL,
        ),
    ] = None,
    engine: EngineConfig,
    server: ServeSettings,
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
    stated: settings.Stated = ctx.obj
    folder = find_checkpoint(engine.model_path)
    spec = read_model(folder, engine.model_family)
    said_limits, of_checkpoint = stated.limits(), model_defaults(spec, folder)
    said_defaults = stated.defaults(default or (), of_checkpoint, model_defaults(spec))
    engine = replace(engine, nodes=replace(engine.nodes, refuses_alone=True))
    server = with_requests(server, said_limits, said_defaults, spec)
    from ringlight.server.app import check, create_app, run  # here: half of all imports, for this alone

    if dry_run:
        checked = check(server, engine)
        show_start(checked.engine, server, checked.occupied, listing.of_command(ctx, said_limits, said_defaults))
    elif engine.nodes.node_rank > 0:
        host(server, engine)
    else:
        run(create_app(server, engine), server)


def host(server: ServeSettings, engine: EngineConfig) -> None:
    """Host the ranks of a node above 0, which refuses what node 0 refuses, and logs as it is asked to."""
    from ringlight.server.app import engine_of  # here, as in `serve`
    from ringlight.server.observability.logs import configure_logs

    configure_logs(server.log_format, server.log_level)
    engine_of(server, engine)
    keep_hosting(lambda: Engine(engine, server.limits, defaults=server.defaults))


def with_requests(
    server: ServeSettings, limits: Mapping[str, settings.Said], defaults: Mapping[str, settings.Said], spec: ModelSpec
) -> ServeSettings:
    """Settings with the limits and the defaults of requests. Raises InvalidSetting for defaults that cannot be made."""
    told = RequestLimits(**settings.values(limits)), RequestDefaults(**settings.values(defaults))
    check_defaults(defaults, told[1], spec, told[0])
    return replace(server, limits=told[0], defaults=told[1])


def show_start(engine: Engine, server: ServeSettings, occupied: Iterable[str], listed: str) -> None:
    """Print all settings, as `listed`, what would be served, and on stderr what keeps it from starting just now."""
    print(listed)
    called = ", ".join(server.served_model_name or (engine.spec.name,))
    weights = "on the host, one copy for all ranks" if engine.has_weights_on_host else "in each rank"
    print(f"\nmodel   {called}\nlayout  {engine.choice.reason}\nweights {weights}")
    for name, told in recognised(engine.files).items():
        print(f"files   {name}: {told}")
    for line in show_loras(engine.door.loras):
        print(f"lora    {line}")
    print(f"folder  {Path(server.data_dir).absolute()}")
    for each in occupied:
        print(f"ringlight: a start at this moment would be refused: {each}", file=sys.stderr)


def show_loras(library: LoraLibrary) -> Iterator[str]:
    """Yield a line for each LoRA that every video has or that requests may name, with its file's contents."""
    for lora in library.always:
        yield f"{lora}, in every video: {library.file(lora).told}"
    for lora, file, problem in library.offered():
        yield f"{lora}: {f'cannot be used: {problem}' if file is None else file.told}"


def check_defaults(
    said: Mapping[str, settings.Said], defaults: RequestDefaults, spec: ModelSpec, limits: RequestLimits
) -> None:
    """Raise InvalidSetting where the operator gave defaults that no request can be made with."""
    given = {name for name, each in said.items() if each.source not in settings.OF_CHECKPOINT}
    if given & {"width", "height"}:
        given.add("size")
    try:
        defaults.typical("a prompt", spec).check(spec, limits)
    except InvalidRequest as error:
        if problems := [str(problem) for problem in error.problems if problem.field in given]:
            raise InvalidSetting(f"defaults: {'; '.join(problems)}") from None
