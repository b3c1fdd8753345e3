"""`ringlight bench`: measure layouts over HTTP, and print the page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ringlight.bench.variants import OF_SERVERS
from ringlight.cli.asked_bench import (
    MEASURED,
    AskedBenchmark,
    check_asked,
    read_keys,
    read_launches,
    read_servers,
    read_workload,
)
from ringlight.cli.flags import with_flags
from ringlight.cli.signals import handled, interrupt
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.codes import EXIT_WORKER
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import setting
from ringlight.core.layout import ParallelLayout
from ringlight.core.output import part_path
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_model
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import LinkRates

if TYPE_CHECKING:
    from ringlight.bench.gates import Gate
    from ringlight.bench.result import Result
    from ringlight.bench.runner import Benchmark

PREDICTED, RESULT = "Prediction", "Result"
EXIT_OUTSIDE = 1


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

    fail_if: Annotated[
        tuple[str, ...],
        setting(
            'Fail where this is true, such as "PSNR < 40dB" or "Total > 1.2x", as in `ringlight compare`; may be '
            "repeated.",
            RESULT,
            metavar="GATE",
            splits=False,
        ),
    ] = ()

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
        list[str] | None,
        typer.Option(
            help="Key to the servers of --url, or with their names to each of them. Better in the environment, with "
            "spaces between several.",
            envvar="RINGLIGHT_API_KEY",
            metavar="[NAME=]KEY",
            show_default=False,
            rich_help_panel=MEASURED,
        ),
    ] = None,
    engine: EngineConfig,
    prediction: AskedPrediction,
    result: AskedResult,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULT)] = False,
) -> None:
    """Measure layouts side by side over HTTP, and print the page: stages, memory, link, speedups, agreement of outputs.

    For each layout a server of its own is started, warmed up, and sent the workload; so in every round, in an order
    that turns. The first u1r1, else the first layout, is the baseline. With --url a server that runs already is
    measured; each of --layouts is then asked of it with every request. Of several servers each has its turn in every
    round, and is held to the first: ratios with their range over rounds, whether they are noise, and how like its
    videos theirs are.

    Variants of the requests, of the workload's file or of --variant, are measured beside each layout. The page says how
    like what is exact their videos are, and of prompts of the trained demo checkpoint whether they show what is asked.

    In the folder are report.md, result.json (for `ringlight compare`), runs.csv, charts (with matplotlib: the extra
    `bench`), the videos of the first round, and the servers' logs.

    Exit codes: 0, 1 a gate failed or outside of the band of a prediction, 2 usage, 3 invalid setting, checkpoint or
    installation, or a gate on what is not there, 4 a request or a server failed, 130 interrupted (what was measured
    until then is kept).
    """
    # Here, because the client takes long to import, and only this command needs all this.
    from ringlight.bench.gates import Gate
    from ringlight.bench.runner import Benchmark, RunningServer, Target

    names = [ParallelLayout.parse(name).name for name in dict.fromkeys([*asked.layouts, *(more_layouts or [])])]
    spec = None if asked.model_path is None else read_model(find_checkpoint(str(asked.model_path)))
    check_asked(names, asked, spec)
    gates = [Gate.parse(text) for text in result.fail_if]
    urls = read_servers(asked.url)
    keys = read_keys(api_key or (), urls)
    servers = tuple(
        RunningServer(name=name, url=url, api_key=keys.get(name, keys.get(""))) for name, url in urls.items()
    )
    workload = read_workload(asked, engine, spec, servers)
    known = prediction.read(spec)
    launch, own = (None, {}) if servers else read_launches(asked, names, engine, workload, result.output / "logs")
    result.make_folders()
    target = Target(launch=launch, own=own, running=servers, api_key=keys.get(""))
    tell = (lambda line: None) if quiet else _tell
    benchmark = Benchmark(workload, names, target, asked.rounds, result.output, tell)
    _measure(benchmark, spec, known, prediction, result, _command(keys.values()))
    _hold(gates, result.output / "result.json")


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


def _command(keys: Iterable[str]) -> str:
    """Command line of this process without its keys, for it goes to files that are passed on."""
    words = sys.argv[1:]
    for key in sorted(filter(None, keys), key=len, reverse=True):
        words = [word.replace(key, "KEY") for word in words]
    return shlex.join(["ringlight", *words])


def _hold(gates: Sequence[Gate], path: Path) -> None:
    """Say what gates say of a result. Raises Exit where one has failed, InvalidSetting for one on what is not there."""
    from ringlight.bench.comparison import compare
    from ringlight.bench.gates import in_lines

    verdicts = compare([path], force=False).verdicts(gates) if gates else []
    if verdicts:
        print("\n" + in_lines(verdicts))
    if any(verdict.has_failed for verdict in verdicts):
        raise typer.Exit(EXIT_OUTSIDE)


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
