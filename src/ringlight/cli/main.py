"""`ringlight`: the commands, and how errors become one line and an exit code."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.main
from typer.exceptions import TyperException

from ringlight.cli.bench import bench
from ringlight.cli.compare import compare
from ringlight.cli.convert import convert
from ringlight.cli.demo_checkpoint import demo_checkpoint
from ringlight.cli.doctor import doctor
from ringlight.cli.generate import generate
from ringlight.cli.jobs import jobs
from ringlight.cli.models import models
from ringlight.cli.plan import plan
from ringlight.cli.serve import serve
from ringlight.cli.settings import EngineCommand
from ringlight.core.codes import EXIT_INTERRUPTED, EXIT_USAGE
from ringlight.core.errors import RinglightError
from ringlight.core.plain import coded

app = typer.Typer(
    name="ringlight",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def show_version(wanted: bool) -> None:
    """Print the version and exit, if it is wanted."""
    if wanted:
        print(f"ringlight {version('ringlight')}")
        raise typer.Exit


@app.callback()
def ringlight(
    _version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Diffusion video, with every second and every gigabyte accounted for."""


app.command(cls=EngineCommand)(generate)
app.command()(serve)
app.command(cls=EngineCommand)(plan)
app.command(cls=EngineCommand)(models)
app.command(cls=EngineCommand)(bench)
app.command()(compare)
app.add_typer(jobs)
app.command(name="demo-checkpoint")(demo_checkpoint)
app.command()(convert)
app.command(cls=EngineCommand)(doctor)


def unfold(command: Any) -> None:
    """Let the terminal alone break the lines of a command's paragraphs, and of those below it."""
    command.help = "\n\n".join(" ".join(each.split()) for each in (command.help or "").split("\n\n"))
    for below in getattr(command, "commands", {}).values():
        unfold(below)


command = typer.main.get_command(app)
unfold(command)


def main() -> None:
    """Run a command. Exit codes: 0, 2 usage, 3 invalid request or checkpoint, 4 worker failure, 130 interrupted."""
    try:
        sys.exit(command(standalone_mode=False) or 0)
    except TyperException as error:
        said = error.format_message().replace("Value error, ", "")
        if said:  # without a command, help has been printed instead
            print(f"ringlight: usage: {said} (see --help)", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except RinglightError as error:
        print(f"ringlight: {coded(error.code, str(error))}", file=sys.stderr)
        sys.exit(error.kind.exit_code)
    except KeyboardInterrupt:
        print("ringlight: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
