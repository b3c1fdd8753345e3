"""A benchmark from its first request to its result: every column once a round, in an order that turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ringlight.bench.agreement import Agreement, agree
from ringlight.bench.expected import Expected, expect
from ringlight.bench.judged import Judged, can_judge, judge_video
from ringlight.bench.result import Column, Result
from ringlight.bench.sending import Sample, Turn, send
from ringlight.bench.servers import Launch, Started, serving, shown_command
from ringlight.bench.variants import RequestVariant, file_stem
from ringlight.bench.workload import Workload
from ringlight.client import ApiError, Client, Unreachable
from ringlight.core.host import memory_bytes, num_cores
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.families.model import ModelSpec
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import LinkRates

Tell = Callable[[str], None]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Servers to measure: those that we launch, or a running one by its URL.

    `own` are those of variants that have a server of their own, by their names.
    """

    launch: Launch | None = None
    own: dict[str, Launch] = {}
    url: str = ""
    api_key: str | None = None


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Column with its requests: a layout, exact or with a variant's changes. `launch` starts its server."""

    name: str
    layout: str
    workload: Workload
    launch: Launch | None
    variant: RequestVariant | None = None


class Benchmark:
    """Rounds of a workload over columns, and their results so far."""

    def __init__(
        self, workload: Workload, layouts: Sequence[str], target: Target, num_rounds: int, folder: Path, tell: Tell
    ) -> None:
        """Set up the columns: each of `layouts`, exact and then with each variant of the workload.

        No layout is a running server's own. Videos of the first round are kept in `folder`.

        `tell` hears of every step, a line each.
        """
        self.workload, self.target, self.num_rounds = workload, target, num_rounds
        self.layouts = list(layouts) or ["server"]
        self.contenders = [
            Contender(
                name=layout if variant is None else f"{layout} {variant.name}",
                layout=layout,
                workload=workload if variant is None else workload.varied(variant),
                launch=target.launch if variant is None else target.own.get(variant.name, target.launch),
                variant=variant,
            )
            for layout in self.layouts
            for variant in (None, *workload.variants)
        ]
        self.samples: list[Sample] = []
        self.started: dict[str, list[Started]] = {each.name: [] for each in self.contenders}
        self.agreements: list[Agreement] = []
        self.judged: list[Judged] = []
        self.is_whole = False
        self._asks_for_layouts = bool(layouts)
        self._folder = folder
        self._kept: set[Path] = set()  # others in the folder are of a run before
        self._tell = tell

    @property
    def baseline(self) -> str:
        """The first u1r1, or the first column."""
        return "u1r1" if "u1r1" in self.layouts else self.layouts[0]

    @property
    def on_other_servers(self) -> set[str]:
        """Columns whose server is another than the exact one's."""
        return {each.name for each in self.contenders if each.launch != self.target.launch}

    def run(self) -> None:
        """Run all rounds. Results so far are in `samples`, also after an interruption or an error."""
        for number in range(1, self.num_rounds + 1):
            for together in self.turns(number):
                names = ", ".join(each.name for each in together)
                self._tell(f"round {number} of {self.num_rounds}: {names}")
                with self._connected(together, number) as client:
                    for each in together:
                        if len(together) > 1:
                            self._tell(f"  {each.name}")
                        self._measure(client, each, number)
        self._look()
        self.is_whole = True

    def turns(self, number: int) -> Iterator[list[Contender]]:
        """Yield the order of a round: contenders that share a server, one server after another."""
        turn = self.contenders if number % 2 else self.contenders[::-1]
        for layout in self.layouts if number % 2 else reversed(self.layouts):
            own = [each for each in turn if each.layout == layout]
            for launch in dict.fromkeys(each.launch for each in own):
                yield [each for each in own if each.launch == launch]

    @contextmanager
    def _connected(self, together: Sequence[Contender], number: int) -> Iterator[Client]:
        target, launch = self.target, together[0].launch
        if launch is None:
            with Client(target.url, target.api_key) as client:
                yield client
            return
        with serving(launch, ParallelLayout.parse(together[0].layout), number) as (url, started):
            self._tell(f"  ready in {started.ready_seconds:.1f} s")
            for each in together:
                self.started[each.name].append(started)
            with Client(url, target.api_key) as client:
                yield client

    def _measure(self, client: Client, contender: Contender, number: int) -> None:
        workload = contender.workload
        turn = Turn(
            column=contender.name,
            round=number,
            concurrency=workload.concurrency,
            timeout_seconds=workload.said.timeout_seconds,
            layout=contender.layout if self.target.launch is None and self._asks_for_layouts else None,
        )
        if warm_up := workload.warm_up():
            send(client, warm_up, msgspec.structs.replace(turn, concurrency=1), self._warm)
        samples: list[Sample] = []

        def hear(sample: Sample) -> None:
            samples.append(sample)
            self.samples.append(sample)
            self._say(sample)

        send(client, workload.round(number), turn, hear)
        if number == 1:
            self._keep_videos(client, samples)

    def _warm(self, sample: Sample) -> None:
        if sample.fate != "completed":
            self._tell(f"  warm-up {sample.fate}: {sample.error}")

    def _say(self, sample: Sample) -> None:
        if sample.latency_seconds is None:
            self._tell(f"  request {sample.place + 1} {sample.fate.replace('_', ' ')}: {sample.error}")
        else:
            inner = "" if sample.report is None else f", {sample.report.total_seconds:.2f} s of them in the worker"
            self._tell(f"  request {sample.place + 1} completed in {sample.latency_seconds:.2f} s{inner}")

    def _keep_videos(self, client: Client, samples: Sequence[Sample]) -> None:
        """Fetch the first completed video of each kind."""
        for sample in sorted(samples, key=lambda sample: sample.place):
            path = self._video(sample.column, sample.kind)
            if sample.fate == "completed" and sample.place == sample.kind:
                try:
                    client.download(sample.video_id, path)
                    self._kept.add(path)
                except (ApiError, Unreachable) as error:
                    self._tell(f"  video of request {sample.place + 1} not fetched: {error}")

    def _look(self) -> None:
        """Compare videos with exact ones, and with their prompts."""
        for each in self.contenders:
            held_to = self.baseline if each.variant is None else each.layout
            for kind, asked in enumerate(each.workload.kinds):
                video, other = self._video(each.name, kind), self._video(held_to, kind)
                if each.name != held_to and {video, other} <= self._kept:
                    self.agreements.append(agree(each.name, kind, video, other))
                if video in self._kept and can_judge(asked.prompt):
                    self.judged.append(judge_video(each.name, kind, video, asked.prompt))

    def _video(self, column: str, kind: int) -> Path:
        return self._folder / "videos" / f"{file_stem(column)}_request{kind + 1}.mp4"

    def result(self, command: str, expected: Sequence[Expected] = ()) -> Result:
        """Result of all requests so far. `command` is the command line that started the benchmark."""
        said = self.workload.said
        return Result(
            name=said.name,
            description=said.description,
            workload=self.workload.content(),
            workload_hash=self.workload.sha256,
            titles=[kind.title for kind in self.workload.kinds],
            baseline=self.baseline,
            num_rounds=self.num_rounds,
            columns=[self._column(each) for each in self.contenders],
            samples=self.samples,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=command,
            machine=machine(),
            is_whole=self.is_whole,
            agreements=self.agreements,
            judged=self.judged,
            expected=list(expected),
        )

    def _column(self, contender: Contender) -> Column:
        name, launch, variant = contender.name, contender.launch, contender.variant
        layout = contender.layout
        if launch is None and not self._asks_for_layouts:
            layout = next((s.report.layout for s in self.samples if s.column == name and s.report is not None), "")
        column = Column(name=name, layout=layout)
        if launch is not None:
            command = shown_command(launch, ParallelLayout.parse(layout))
            column = msgspec.structs.replace(column, command=command, started=self.started[name])
        if variant is None:
            return column
        return msgspec.structs.replace(column, variant=variant.name, says=variant.said, beside=contender.layout)


def expectations(
    samples: Sequence[Sample],
    spec: ModelSpec,
    known: Calibration | None,
    link: LinkRates,
    uncalibrated: Collection[str] = (),
) -> list[Expected]:
    """Predictions for each column, kind of request and number of slices that has a report of this model.

    Columns in `uncalibrated` have a server other than the calibrated one; only their bytes are predicted.
    """
    found: dict[tuple[str, int, int], Expected] = {}
    for sample in samples:
        report = sample.report
        if report is not None and report.workload.get("model_sha256") == spec.fingerprint:
            key = (sample.column, sample.kind, report.num_slices)
            of_column = None if sample.column in uncalibrated else known
            found[key] = found.get(key) or expect(sample.column, sample.kind, report, spec, of_column, link)
    return list(found.values())


def machine() -> dict[str, Any]:
    """The machine that the requests were sent from, which for our own servers is theirs too."""
    return {
        "cores": num_cores(),
        "memory_gib": round(memory_bytes() / GIB, 1),
        "system": platform.platform(),
    }
