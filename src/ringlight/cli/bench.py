"""`ringlight bench`: measure layouts over HTTP, and print the page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ringlight.bench.variants import OF_SERVERS, RequestVariant, read_flag, read_variant, unknown_names
from ringlight.cli.flags import as_flags, with_flags
from ringlight.cli.signals import handled, interrupt
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.codes import EXIT_WORKER
from ringlight.core.config import EngineConfig, read_limits
from ringlight.core.errors import InvalidRequest, InvalidSetting, RinglightError
from ringlight.core.fields import setting
from ringlight.core.layout import AskedLayout, ParallelLayout, candidates
from ringlight.core.output import part_path
from ringlight.engine.site import check_installed
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import model_defaults, read_model
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import LinkRates

if TYPE_CHECKING:
    from ringlight.bench.result import Result
    from ringlight.bench.runner import Benchmark
    from ringlight.bench.servers import Launch
    from ringlight.bench.workload import Workload

MEASURED, PREDICTED, RESULT = "What is measured", "Prediction", "Result"
EXIT_OUTSIDE = 1


class AskedBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Flags for what is measured."""

    layouts: Annotated[
        tuple[str, ...], setting("Names such as u1r1 u1r2 c2u1r1, one after another.", MEASURED, splits=False)
    ] = ()
    model_path: Annotated[
        Path | None, setting("Checkpoint that a server is started with for each layout.", MEASURED)
    ] = None
    url: Annotated[str, setting("Measure a server that runs already instead.", MEASURED)] = ""
    workload: Annotated[Path | None, setting("TOML file of requests; else the checkpoint's defaults.", MEASURED)] = None
    image: Annotated[
        Path | None,
        setting(
            "First frame of the defaults, also the last one of models that need both; or of requests that say image = "
            '"given".',
            MEASURED,
        ),
    ] = None
    variant: Annotated[
        tuple[str, ...],
        setting(
            "Measure beside each layout what differs so: fields of every request, and as server.NAME settings of a "
            "server of its own. May be repeated; a workload's [[variant]] says the same.",
            MEASURED,
            metavar="NAME=VALUE,...",
            splits=False,
        ),
    ] = ()
    rounds: Annotated[int, setting("How often each layout has its turn.", MEASURED, ge=1)] = 3


class AskedPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """Flags for what is predicted beside the measurements."""

    calibration: Annotated[
        Path | None,
        setting("Report or bench result of u1r1 runs of any shape: predict what is measured.", PREDICTED),
    ] = None
    gpu: Annotated[str | None, setting("Card of the calibration, where it names none.", PREDICTED)] = None
    link: Annotated[str | None, setting(f"Between ranks: {', '.join(catalogue.LINKS)}.", PREDICTED)] = None
    band: Annotated[
        float, setting("Percent by which Denoising and Decoding may miss a prediction; 0: any.", PREDICTED, ge=0)
    ] = 15.0

    def read(self, spec: ModelSpec | None) -> Calibration | None:
        """Read the calibration, None if none is given. Raises InvalidSetting."""
        if self.calibration is None:
            return None
        if spec is None:
            raise InvalidSetting("--calibration needs the checkpoint's numbers: name it with --model-path")
        return Calibration.read(self.calibration, spec, None if self.gpu is None else catalogue.card(self.gpu))

    def between(self, benchmark: Benchmark) -> LinkRates:
        """Link between ranks: the one asked for, else loopback between processes on a CPU and PCIe between GPUs."""
        kinds = {sample.report.environment.get("device_type") for sample in benchmark.samples if sample.report}
        return catalogue.link(self.link or ("loopback" if kinds == {"cpu"} else "pcie4"))


class AskedResult(msgspec.Struct, frozen=True, kw_only=True):
    """Flags for where results go."""

    output: Annotated[Path, setting("Folder for the page, JSON, CSV, charts.", RESULT, short="o")] = Path("bench")
    trace: Annotated[Path | None, setting("Write a trace for Perfetto or chrome://tracing.", RESULT)] = None

    def make_folders(self) -> None:
        """Make the folders for results, before anything is measured. Raises InvalidSetting."""
        try:
            for folder in (self.output / "logs", self.output / "videos"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSetting(f"output {self.output}: {error.strerror}") from None
        for folder in (self.output, *([] if self.trace is None else [self.trace.parent])):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise InvalidSetting(f"the folder {folder} is not there or cannot be written to")


@with_flags(
    only={"engine": OF_SERVERS},
    usual={"engine.model_path": ""},
    asked=AskedBenchmark,
    engine=EngineConfig,
    prediction=AskedPrediction,
    result=AskedResult,
)
def bench(
    *,
    asked: AskedBenchmark,
    more_layouts: Annotated[list[str] | None, typer.Argument(metavar="LAYOUT...", hidden=True)] = None,
    api_key: Annotated[
        str,
        typer.Option(help="Key to it.", envvar="RINGLIGHT_API_KEY", show_default=False, rich_help_panel=MEASURED),
    ] = "",
    engine: EngineConfig,
    prediction: AskedPrediction,
    result: AskedResult,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULT)] = False,
) -> None:
    """Measure layouts side by side over HTTP, and print the page: stages, memory, link, speedups, agreement of outputs.

    For each layout a server of its own is started, warmed up, and sent the workload; so in every round, in an order
    that turns. The first u1r1, else the first layout, is the baseline. With --url a server that runs already is
    measured; each of --layouts is then asked of it with every request.

    Variants of the requests, of the workload's file or of --variant, are measured beside each layout. The page says how
    like what is exact their videos are, and of prompts of the trained demo checkpoint whether they show what is asked.

    In the folder are report.md, result.json (for `ringlight compare`), runs.csv, charts (with matplotlib: the extra
    `bench`), the videos of the first round, and the servers' logs.

    Exit codes: 0, 1 outside of the band of a prediction, 2 usage, 3 invalid setting, checkpoint or installation, 4 a
    request or a server failed, 130 interrupted (what was measured until then is kept).
    """
    # Here, because the client takes long to import, and only this command needs all this.
    from ringlight.bench.runner import Benchmark, Target

    names = [ParallelLayout.parse(name).name for name in dict.fromkeys([*asked.layouts, *(more_layouts or [])])]
    folder = None if asked.model_path is None else find_checkpoint(str(asked.model_path))
    spec = None if folder is None else read_model(folder)
    _check(names, asked, spec)
    workload = _workload(asked, engine, spec, folder)
    known = prediction.read(spec)
    launch, own = (None, {}) if asked.url else _launches(asked, names, engine, workload, result.output / "logs")
    result.make_folders()
    target = Target(launch=launch, own=own, url=asked.url, api_key=api_key or None)
    tell = (lambda line: None) if quiet else _tell
    benchmark = Benchmark(workload, names, target, asked.rounds, result.output, tell)
    _measure(benchmark, spec, known, prediction, result, _command(api_key))


def _measure(
    benchmark: Benchmark,
    spec: ModelSpec | None,
    known: Calibration | None,
    prediction: AskedPrediction,
    asked: AskedResult,
    command: str,
) -> None:
    """Measure, print the page, and keep the measurements also after an early end. Raises Exit for a bad result."""
    from ringlight.bench.runner import expectations

    def finish() -> Result:
        link, others = prediction.between(benchmark), benchmark.on_other_servers
        expected = [] if spec is None else expectations(benchmark.samples, spec, known, link, others)
        result = benchmark.result(command, expected)
        _write(result, asked)
        return result

    try:
        with handled(interrupt):
            benchmark.run()
    except BaseException:
        if benchmark.samples:
            finish()
            _tell(f"what was measured until then: {asked.output / 'report.md'}")
        raise
    result = finish()
    print((asked.output / "report.md").read_text(encoding="utf-8"), end="")
    outside = list(_outside(result, prediction.band)) if prediction.band else []
    for line in outside:
        _tell(line)
    if result.num_failed:
        _tell(f"{result.num_failed} of {len(result.samples)} requests failed")
        raise typer.Exit(EXIT_WORKER)
    if outside:
        raise typer.Exit(EXIT_OUTSIDE)


def _workload(asked: AskedBenchmark, engine: EngineConfig, spec: ModelSpec | None, folder: Path | None) -> Workload:
    """The workload of a file, else of the checkpoint's defaults. Raises InvalidSetting."""
    from ringlight.bench.workload import Workload, read_workload

    if asked.workload is not None:
        workload = read_workload(asked.workload, asked.image)
    elif spec is not None and folder is not None:
        workload = Workload.usual(model_defaults(spec, folder), spec, asked.image)
    else:
        raise InvalidSetting("with --url name a --workload")
    workload = workload.beside([_variant(text) for text in asked.variant])
    if asked.url and (own := [variant.name for variant in workload.variants if variant.server]):
        raise InvalidSetting(f"variants with a server of their own ({', '.join(own)}) need --model-path, not --url")
    if spec is not None:
        exact = [variant for variant in workload.variants if not variant.server]
        for each in (workload, *map(workload.varied, exact)):
            each.check(spec, read_limits(), None if asked.url else LoraLibrary(engine, spec))
    return workload


def _variant(text: str) -> RequestVariant:
    """Parse the value of --variant. Raises InvalidSetting."""
    try:
        table = read_flag(text)
        if problems := [*unknown_names(table)]:
            raise InvalidSetting("; ".join(problems))
        return read_variant(table, strict=False)
    except (InvalidSetting, InvalidRequest, msgspec.ValidationError) as error:
        raise InvalidSetting(f"variant {text!r}: {error}") from None


def _launches(
    asked: AskedBenchmark, names: list[str], engine: EngineConfig, workload: Workload, logs: Path
) -> tuple[Launch, dict[str, Launch]]:
    """Launch of the exact servers, and those of variants that have their own, by name.

    Raises InvalidSetting for variants that these servers cannot make, or that change nothing, and InvalidInstallation.
    """
    from ringlight.bench.servers import Launch

    assert asked.model_path is not None, "or there is a URL"
    check_installed(engine)
    exact = Launch(model_path=asked.model_path, flags=tuple(as_flags(engine, OF_SERVERS)), logs=logs)
    own = {}
    for variant in workload.variants:
        if not variant.server:
            continue
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in variant.server.items()}
        place = Path(str(settings.pop("model_path", asked.model_path)))
        try:
            changed = msgspec.structs.replace(engine, **settings)
            spec = read_model(find_checkpoint(str(place)))
            _check(names, asked, spec)
            varied = workload.varied(variant)
            varied.check(spec, read_limits(), LoraLibrary(changed, spec))
        except RinglightError as error:
            raise InvalidSetting(f"variant {variant.name}: {error}") from None
        launch = Launch(model_path=place, flags=tuple(as_flags(changed, OF_SERVERS)), logs=logs)
        if launch == exact and varied.kinds == workload.kinds:
            raise InvalidSetting(f"variant {variant.name}: differs in nothing from what it is measured beside")
        own[variant.name] = msgspec.structs.replace(launch, variant=variant.name)
    return exact, own


def _check(names: list[str], asked: AskedBenchmark, spec: ModelSpec | None) -> None:
    """Raise InvalidSetting if it is not clear what is to be measured, InvalidLayout for more ranks than heads."""
    if not asked.url and asked.model_path is None:
        raise InvalidSetting("name a checkpoint with --model-path, or a running server with --url")
    if not asked.url and not names:
        raise InvalidSetting("name --layouts, such as --layouts u1r1 u1r2")
    if spec is not None:
        for name in names:
            candidates(AskedLayout.of(ParallelLayout.parse(name)), num_heads=spec.transformer.num_attention_heads)


def _command(api_key: str) -> str:
    """Command line of this process without its key, for it goes to files that are passed on."""
    words = [word.replace(api_key, "KEY") if api_key else word for word in sys.argv[1:]]
    return shlex.join(["ringlight", *words])


def _write(result: Result, asked: AskedResult) -> None:
    """Write all files of a result."""
    from ringlight.bench import plots
    from ringlight.bench.page import to_markdown
    from ringlight.bench.trace import to_trace

    charts: list[tuple[str, str]] = []
    if plots.can_draw():
        charts = plots.draw(result, asked.output)
    else:
        _tell("no charts: they need matplotlib (pip install 'ringlight[bench]')")
    files = {
        asked.output / "report.md": to_markdown(result, charts).encode(),
        asked.output / "result.json": result.to_json(),
        asked.output / "runs.csv": result.to_csv().encode(),
    }
    if asked.trace is not None:
        files[asked.trace] = to_trace(result)
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
    """Yield stages and peaks that lie further from their prediction than they may."""
    from ringlight.bench.expected import misses

    for miss in misses(result.expected, result.samples, band / 100):
        yield f"outside of the prediction's band: {miss}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
