"""`ringlight generate`: one video from a checkpoint and a prompt."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ringlight.cli.flags import with_flags
from ringlight.cli.nodes import host_ranks, say_layout
from ringlight.cli.progress import JobProgress
from ringlight.cli.request_flags import parse_size, read_image
from ringlight.cli.signals import interruptible
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig, read_limits
from ringlight.core.errors import Cancelled, InvalidRequest
from ringlight.core.fields import VIDEO
from ringlight.core.output import KINDS, check_folder, part_path
from ringlight.core.plain import counted
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.settings import ROUND_SIZES
from ringlight.core.sizes import AskedSize
from ringlight.core.video_fields import AskedFields
from ringlight.engine.door import Door
from ringlight.engine.engine import Engine
from ringlight.engine.jobs import Job, Submission
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import model_defaults, read_model

RESULT = "Result"
OUTPUT_HELP = "Where the video goes; the extension says how: " + "; ".join(
    f"{ext} {what}" for ext, what in KINDS.items()
)


@with_flags(without=("warm_up", "video.lora"), video=AskedFields, engine=EngineConfig)
def generate(
    *,
    prompt: Annotated[str, typer.Option(help="What the video shows.", show_default=False, rich_help_panel=VIDEO)],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help=OUTPUT_HELP + ".", show_default=False, rich_help_panel=RESULT),
    ],
    image_path: Annotated[
        Path | None,
        typer.Option(
            help="First frame: a picture. Without a size the video takes its shape; with one its middle is taken.",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    last_image_path: Annotated[
        Path | None,
        typer.Option(help="Last frame: a picture, of models that take one beside the first.", rich_help_panel=VIDEO),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Width and height at once.", metavar="WxH", rich_help_panel=VIDEO)
    ] = None,
    round_sizes: Annotated[bool, typer.Option(help=ROUND_SIZES, rich_help_panel=VIDEO)] = False,
    video: AskedFields,
    engine: EngineConfig,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.", rich_help_panel=RESULT)] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of a table.", rich_help_panel=RESULT)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULT)] = False,
) -> None:
    """Make a video from a prompt, or from a prompt and a first frame.

    The report goes to stdout, progress and logs to stderr. Width, height, frames, fps, steps and guidance come from
    the checkpoint's ringlight.json where they are left out, else from the model card. Settings of the engine are also
    read from the environment (RINGLIGHT_MODEL_PATH for --model-path), as `ringlight serve` does.

    Degrees that are left out follow from those that are given, else from what is predicted to be fastest here. With
    --nnodes the same command runs on every node, each with its own --node-rank; nodes above 0 only host ranks, and
    print no report.

    Exit codes: 0, 2 usage, 3 invalid request, checkpoint or installation, 4 worker failure, 130 interrupted.
    """
    asked = msgspec.structs.asdict(video)
    asked_size = width, height = parse_size(size, asked.pop("width"), asked.pop("height"))
    folder = find_checkpoint(engine.model_path)
    spec, limits = read_model(folder, engine.model_family), read_limits()
    door = Door(spec, model_defaults(spec, folder), limits, LoraLibrary(engine, spec))
    if engine.nodes.node_rank == 0:
        asked |= {"image": read_image(image_path), "last_image": read_image(last_image_path, "last_image")}
    request = door.complete(prompt, width=width, height=height, round_sizes=round_sizes, **asked)
    request = door.with_loras(request)
    if engine.nodes.node_rank > 0:
        host_ranks(Engine(engine, limits, typical=request, loras=door.loras), quiet)
        return
    if report is not None:
        check_report(report, output)
    done = make(Engine(engine, limits, typical=request, loras=door.loras), request, asked_size, output, quiet)
    if report is not None:
        write_report(done, report)
    print(done.to_json().decode() if json_ else summary(done), end="" if json_ else "\n")


def make(engine: Engine, request: VideoRequest, asked_size: AskedSize, output: str, quiet: bool) -> RunReport:
    """Make the video with an engine, which ends with it, and show how far it is. Raises its error."""
    with (
        engine,
        JobProgress(quiet) as progress,
        interruptible() as interrupted,
    ):
        job = engine.submit(request, output, progress, submission=Submission(asked_size=asked_size))
        progress.warn(job.state.warnings)
        say_layout(engine, progress)
        if job.layout != engine.choice.layout:
            progress.say(job.plan.layout_reason)
        return wait(engine, job, interrupted, progress)


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
    whose = f" of {workload['sampler']}" if workload.get("sampler") else ""
    lines = [
        report.table(),
        "",
        f"{workload['width']}x{workload['height']}, {counted(workload['num_frames'], 'frame')}, "
        f"{counted(workload['num_inference_steps'], 'step')}{whose}, guidance {workload['guidance_scale']:g}, "
        f"seed {workload['seed']}; {report.num_tokens} tokens; "
        f"{report.layout} on {environment['device']}, {environment['dtype']}, "
        f"attention {environment['attention_kernel']}; "
        f"weights loaded in {environment['load_seconds']:.1f} s"
        f" ({environment.get('load_gigabytes_per_second', 0):.2f} GB/s)",
    ]
    if report.placement is not None and (placed := str(report.placement)):
        lines.append(f"placed: {placed}")
    lines += [f"note: {warning.message}" for warning in report.warnings]
    first, *_, last = [*report.outputs, report.outputs[-1]]
    lines.append(first if first == last else f"{first} ... {last}")
    return "\n".join(lines)
