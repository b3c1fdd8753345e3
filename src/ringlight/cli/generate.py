"""`ringlight generate`: one video from a checkpoint and a prompt."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated

import typer

from ringlight.cli.flags import with_flags
from ringlight.cli.nodes import host_ranks, say_layout
from ringlight.cli.progress import JobProgress
from ringlight.cli.request_flags import parse_size, read_image
from ringlight.cli.signals import interruptible
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig, read_defaults, read_limits
from ringlight.core.errors import Cancelled, InvalidRequest
from ringlight.core.output import KINDS, check_folder, part_path
from ringlight.core.picture import shape_of
from ringlight.core.report import RunReport
from ringlight.core.settings import ROUND_SIZES
from ringlight.core.sizes import decide_size
from ringlight.core.spec import ModelSpec
from ringlight.engine.engine import Engine
from ringlight.engine.jobs import Job

VIDEO, SAMPLING, RESULT = "Video", "Sampling", "Result"
OUTPUT_HELP = "Where the video goes; the extension says how: " + "; ".join(
    f"{ext} {what}" for ext, what in KINDS.items()
)


@with_flags(without=("warm_up",), engine=EngineConfig)
def generate(
    engine: EngineConfig,
    prompt: Annotated[str, typer.Option(help="What the video shows.", show_default=False, rich_help_panel=VIDEO)],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help=OUTPUT_HELP + ".", show_default=False, rich_help_panel=RESULT),
    ],
    negative_prompt: Annotated[
        str | None, typer.Option(help="What it should not show; used with guidance.", rich_help_panel=VIDEO)
    ] = None,
    image_path: Annotated[
        Path | None,
        typer.Option(
            help="First frame: a picture. Without a size the video takes its shape; with one its middle is taken.",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 32.", rich_help_panel=VIDEO)] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 32.", rich_help_panel=VIDEO)] = None,
    size: Annotated[
        str | None, typer.Option(help="Width and height at once.", metavar="WxH", rich_help_panel=VIDEO)
    ] = None,
    round_sizes: Annotated[bool, typer.Option(help=ROUND_SIZES, rich_help_panel=VIDEO)] = False,
    num_frames: Annotated[int | None, typer.Option(help="4k+1; 1 makes a picture.", rich_help_panel=VIDEO)] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.", rich_help_panel=VIDEO)] = None,
    num_inference_steps: Annotated[int | None, typer.Option(help="Denoising steps.", rich_help_panel=SAMPLING)] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Weight of the prompt; off at 1 and below.", rich_help_panel=SAMPLING)
    ] = None,
    flow_shift: Annotated[
        float | None,
        typer.Option(help="Shift of the noise schedule; the scheduler's own.", rich_help_panel=SAMPLING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Same seed, same video; drawn and reported if left out or -1.", rich_help_panel=SAMPLING),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.", rich_help_panel=RESULT)] = None,
    json_: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON instead of a table.", rich_help_panel=RESULT),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULT)] = False,
) -> None:
    """Make a video from a prompt, or from a prompt and a first frame.

    The report goes to stdout, progress and logs to stderr. Width, height, frames, fps, steps and guidance come from
    the checkpoint's ringlight.json where they are left out, else from the model card.

    Degrees that are left out follow from those that are given, else from what is predicted to be fastest here. With
    --nnodes the same command runs on every node, each with its own --node-rank; nodes above 0 only host ranks, and
    print no report.

    Exit codes: 0, 2 usage, 3 invalid request, checkpoint or installation, 4 worker failure, 130 interrupted.
    """
    asked_size = parse_size(size, width, height)
    folder = find_checkpoint(engine.model_path)
    spec, limits, defaults = ModelSpec.read(folder), read_limits(), read_defaults(folder)
    image = read_image(image_path) if engine.nodes.node_rank == 0 else None
    width, height = decide_size(asked_size, shape_of(image, limits), defaults, spec, limits, round_sizes)
    request = defaults.complete(
        prompt,
        spec,
        negative_prompt=negative_prompt,
        image=image,
        width=width,
        height=height,
        num_frames=num_frames,
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        flow_shift=flow_shift,
        seed=seed,
    )
    if engine.nodes.node_rank > 0:
        host_ranks(engine, request, quiet)
        return
    if report is not None:
        check_report(report, output)
    with (
        Engine(engine, limits, typical=request) as running,
        JobProgress(quiet) as progress,
        interruptible() as interrupted,
    ):
        job = running.submit(request, output, progress, asked_size=asked_size)
        progress.warn(job.state.warnings)
        say_layout(running, progress)
        if job.layout != running.choice.layout:
            progress.say(job.layout_reason)
        done = wait(running, job, interrupted, progress)
    if report is not None:
        write_report(done, report)
    print(done.to_json().decode() if json_ else summary(done), end="" if json_ else "\n")


def check_report(path: Path, output: str) -> None:
    """Raise InvalidRequest unless the report can be written, beside the video and not over it."""
    check_folder(path, "report")
    if path.absolute() == Path(output).absolute():
        raise InvalidRequest.of("report", f"{path} is the video's own path; give the report another name")


def write_report(report: RunReport, path: Path) -> None:
    """Write the report's JSON; what is there is whole."""
    part = part_path(path, f"{os.getpid()}")
    try:
        part.write_bytes(report.to_json())
        os.replace(part, path)
    except OSError as error:
        raise InvalidRequest.of("report", f"{path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def wait(engine: Engine, job: Job, interrupted: threading.Event, progress: JobProgress) -> RunReport:
    """Wait for the job; once interrupted, cancel it and wait for its end. Raises its error."""
    told = False
    while True:
        try:
            return job.wait(0.1)
        except TimeoutError:
            if not job.state.stage:
                progress.still_loading(engine.awaited)
            if interrupted.is_set() and not told:
                told = True
                progress.say("stopping at the next step (Ctrl-C again stops at once)")
                engine.cancel(job)
                if not job.state.stage:
                    raise Cancelled("cancelled while loading") from None


def summary(report: RunReport) -> str:
    """The report's tables and where the video lies."""
    workload = report.workload
    environment = report.environment
    lines = [
        report.table(),
        "",
        f"{workload['width']}x{workload['height']}, {workload['num_frames']} frames, "
        f"{workload['num_inference_steps']} steps, guidance {workload['guidance_scale']:g}, seed {workload['seed']}; "
        f"{report.num_tokens} tokens; {report.layout} on {environment['device']}, {environment['dtype']}; "
        f"weights loaded in {environment['load_seconds']:.1f} s",
    ]
    lines += [f"note: {warning.message}" for warning in report.warnings]
    first, *_, last = [*report.outputs, report.outputs[-1]]
    lines.append(first if first == last else f"{first} ... {last}")
    return "\n".join(lines)
