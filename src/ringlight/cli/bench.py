"""`ringlight bench`: measure layouts over HTTP, and print the page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringlight.cli.flags import as_flags, with_flags
from ringlight.cli.signals import handled, interrupt
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.codes import EXIT_WORKER
from ringlight.core.config import EngineConfig, read_limits
from ringlight.core.errors import InvalidSetting
from ringlight.core.layout import AskedLayout, ParallelLayout, candidates
from ringlight.core.output import part_path
from ringlight.families.model import ModelSpec
from ringlight.families.table import model_defaults, read_model
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import Link

if TYPE_CHECKING:
    from ringlight.bench.result import Result
    from ringlight.bench.runner import Benchmark

MEASURED, PREDICTED, RESULT = "What is measured", "Prediction", "Result"
EXIT_OUTSIDE = 1
OF_SERVERS = (  # settings that the servers are started with
    "device",
    "dtype",
    "vae_dtype",
    "attention",
    "load_format",
    "num_threads",
    "tf32",
    "decode_chunk",
    "num_slices",
)


@with_flags(only=OF_SERVERS, usual={"model_path": ""}, engine=EngineConfig)
def bench(
    *,
    layouts: Annotated[
        list[str], typer.Option(help="Names such as u1r1 u1r2 c2u1r1, one after another.", rich_help_panel=MEASURED)
    ] = [],  # noqa: B006 (typer copies it)
    more_layouts: Annotated[list[str] | None, typer.Argument(metavar="LAYOUT...", hidden=True)] = None,
    model_path: Annotated[
        Path | None,
        typer.Option(help="Checkpoint that a server is started with for each layout.", rich_help_panel=MEASURED),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Measure a server that runs already instead.", rich_help_panel=MEASURED)
    ] = "",
    api_key: Annotated[
        str,
        typer.Option(help="Key to it.", envvar="RINGLIGHT_API_KEY", show_default=False, rich_help_panel=MEASURED),
    ] = "",
    workload: Annotated[
        Path | None,
        typer.Option(help="TOML file of requests; else the checkpoint's defaults.", rich_help_panel=MEASURED),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help='First frame for requests that say image = "given".', rich_help_panel=MEASURED),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each layout has its turn.", rich_help_panel=MEASURED)
    ] = 3,
    engine: EngineConfig,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Report or bench result of u1r1 runs of any shape: predict what is measured.",
            rich_help_panel=PREDICTED,
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Card of the calibration, where it names none.", rich_help_panel=PREDICTED)
    ] = None,
    link: Annotated[
        str | None, typer.Option(help=f"Between ranks: {', '.join(catalogue.LINKS)}.", rich_help_panel=PREDICTED)
    ] = None,
    band: Annotated[
        float,
        typer.Option(
            min=0,
            help="Percent by which Denoising and Decoding may miss a prediction; 0: any.",
            rich_help_panel=PREDICTED,
        ),
    ] = 15.0,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the page, JSON, CSV, charts.", rich_help_panel=RESULT),
    ] = Path("bench"),
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace for Perfetto or chrome://tracing.", rich_help_panel=RESULT)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULT)] = False,
) -> None:
    """Measure layouts side by side over HTTP, and print the page: stages, memory, link, speedups, agreement of outputs.

    For each layout a server of its own is started, warmed up, and sent the workload; so in every round, in an order
    that turns. The first u1r1, else the first layout, is the baseline. With --url a server that runs already is
    measured; each of --layouts is then asked of it with every request.

    In the folder are report.md, result.json (for `ringlight compare`), runs.csv, charts (with matplotlib: the extra
    `bench`), the videos of the first round, and the servers' logs.

    Exit codes: 0, 1 outside of the band of a prediction, 2 usage, 3 invalid setting or checkpoint, 4 a request or a
    server failed, 130 interrupted (what was measured until then is kept).
    """
    # Here, because the client takes long to import, and only this command needs all this.
    from ringlight.bench.runner import Benchmark, Target, expectations
    from ringlight.bench.servers import Place
    from ringlight.bench.workload import Workload, read_workload

    names = [ParallelLayout.parse(name).name for name in dict.fromkeys([*layouts, *(more_layouts or [])])]
    folder = None if model_path is None else find_checkpoint(str(model_path))
    spec = None if folder is None else read_model(folder)
    _check(names, model_path, url, spec)
    if workload is not None:
        asked = read_workload(workload, image)
    elif spec is not None and folder is not None:
        asked = Workload.usual(model_defaults(spec, folder), spec)
    else:
        raise InvalidSetting("with --url name a --workload")
    if spec is not None:
        asked.check(spec, read_limits())
    known = None if calibration is None else _calibration(calibration, spec, gpu)
    _make_folders(output, trace)
    place = None
    if not url and model_path is not None:
        place = Place(model_path=model_path, flags=tuple(as_flags(engine, OF_SERVERS)), logs=output / "logs")
    target = Target(place=place, url=url, api_key=api_key or None)
    benchmark = Benchmark(asked, names, target, rounds, output, (lambda line: None) if quiet else _tell)
    command = _command(api_key)

    def finish() -> Result:
        between = _link(link, benchmark)
        expected = [] if spec is None else expectations(benchmark.samples, spec, known, between)
        result = benchmark.result(command, expected)
        _write(result, output, trace)
        return result

    try:
        with handled(interrupt):
            benchmark.run()
    except BaseException:
        if benchmark.samples:
            finish()
            _tell(f"what was measured until then: {output / 'report.md'}")
        raise
    result = finish()
    print((output / "report.md").read_text(encoding="utf-8"), end="")
    outside = list(_outside(result, band)) if band else []
    for line in outside:
        _tell(line)
    if result.num_failed:
        _tell(f"{result.num_failed} of {len(result.samples)} requests failed")
        raise typer.Exit(EXIT_WORKER)
    if outside:
        raise typer.Exit(EXIT_OUTSIDE)


def _check(names: list[str], model_path: Path | None, url: str, spec: ModelSpec | None) -> None:
    """Raise InvalidSetting where it is not clear what is to be measured, InvalidLayout for more ranks than heads."""
    if not url and model_path is None:
        raise InvalidSetting("name a checkpoint with --model-path, or a running server with --url")
    if not url and not names:
        raise InvalidSetting("name --layouts, such as --layouts u1r1 u1r2")
    if spec is not None:
        for name in names:
            candidates(AskedLayout.of(ParallelLayout.parse(name)), num_heads=spec.transformer.num_attention_heads)


def _calibration(path: Path, spec: ModelSpec | None, gpu: str | None) -> Calibration:
    if spec is None:
        raise InvalidSetting("--calibration needs the checkpoint's numbers: name it with --model-path")
    return Calibration.read(path, spec, None if gpu is None else catalogue.card(gpu))


def _link(key: str | None, benchmark: Benchmark) -> Link:
    """What lies between ranks: as told, else loopback between processes on a CPU and PCIe between GPUs."""
    kinds = {sample.report.environment.get("device_type") for sample in benchmark.samples if sample.report}
    return catalogue.link(key or ("loopback" if kinds == {"cpu"} else "pcie4"))


def _command(api_key: str) -> str:
    """What was typed, without the key, for it goes to files that are shown around."""
    words = [word.replace(api_key, "KEY") if api_key else word for word in sys.argv[1:]]
    return shlex.join(["ringlight", *words])


def _make_folders(output: Path, trace: Path | None) -> None:
    """Make what results go to, before anything is measured. Raises InvalidSetting."""
    try:
        for folder in (output / "logs", output / "videos"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"output {output}: {error.strerror}") from None
    for folder in (output, *([] if trace is None else [trace.parent])):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidSetting(f"the folder {folder} is not there or cannot be written to")


def _write(result: Result, output: Path, trace: Path | None) -> None:
    """All files of a result."""
    from ringlight.bench import plots
    from ringlight.bench.page import to_markdown
    from ringlight.bench.trace import to_trace

    charts: list[tuple[str, str]] = []
    if plots.can_draw():
        charts = plots.draw(result, output)
    else:
        _tell("no charts: they need matplotlib (pip install 'ringlight[bench]')")
    files = {
        output / "report.md": to_markdown(result, charts).encode(),
        output / "result.json": result.to_json(),
        output / "runs.csv": result.to_csv().encode(),
    }
    if trace is not None:
        files[trace] = to_trace(result)
    for path, content in files.items():
        part = part_path(path, str(os.getpid()))
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            raise InvalidSetting(f"{path}: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)


def _outside(result: Result, band: float) -> Iterator[str]:
    """Stages and peaks that lie further from their prediction than they may."""
    from ringlight.bench.expected import misses

    for miss in misses(result.expected, result.samples, band / 100):
        yield f"outside of the prediction's band: {miss}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
