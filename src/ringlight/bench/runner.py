"""A benchmark from its first request to its result: every column once a round, in an order that turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from ringlight.bench.agreement import Agreement, agree
from ringlight.bench.expected import Expected, expect
from ringlight.bench.judged import Judged, can_judge, judge_video
from ringlight.bench.kept import digest, video_name
from ringlight.bench.result import Column, Result
from ringlight.bench.sending import Recipient, Sample, Turn, send
from ringlight.bench.servers import Launch, Started, serving, shown_command
from ringlight.bench.variants import RequestVariant
from ringlight.bench.workload import Workload
from ringlight.client import ApiError, Client, Unreachable
from ringlight.core.host import memory_bytes, num_cores
from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.families.model import ModelSpec
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import LinkRates

Tell = Callable[[str], None]


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that runs already."""

    name: str
    url: str
    api_key: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Servers to measure: those that we launch, or those that run already.

    `own` are those of variants that have a server of their own, by their names; `api_key` is that of servers that we
    launch.
    """

    launch: Launch | None = None
    own: dict[str, Launch] = {}
    running: tuple[RunningServer, ...] = ()
    api_key: str | None = None


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Column to measure: a layout (or a server's own), exact or as a variant has it, with its requests.

    `launch` starts its server, unless one is `running`. It is compared with the column that it is `beside`, else with
    the baseline.
    """

    name: str
    layout: str
    workload: Workload
    launch: Launch | None = None
    running: RunningServer | None = None
    variant: RequestVariant | None = None
    beside: str = ""


class Benchmark:
    """Rounds of a workload over columns, and their results so far."""

    def __init__(
        self, workload: Workload, layouts: Sequence[str], target: Target, num_rounds: int, folder: Path, tell: Tell
    ) -> None:
        """Columns are `layouts`, each exact and then as each variant of the workload has it, of each running server.

        No layout is a running server's own. Videos of the first round are kept in `folder`. `tell` hears of
        every step, a line each.
        """
        self.workload, self.target, self.num_rounds = workload, target, num_rounds
        self.layouts = list(layouts) or [""]
        self.contenders = [*self._contenders()]
        self.samples: list[Sample] = []
        self.started: dict[str, list[Started]] = {each.name: [] for each in self.contenders}
        self.agreements: list[Agreement] = []
        self.judged: list[Judged] = []
        self.is_whole = False
        self._folder = folder
        self._kept: dict[str, str] = {}  # others in the folder are of a run before
        self._tell = tell

    def _contenders(self) -> Iterator[Contender]:
        """The first server's columns, then those of the others, each beside the same one of the first."""
        target, variants = self.target, (None, *self.workload.variants)
        servers = target.running or (None,)
        for running, layout, variant in product(servers, self.layouts, variants):
            is_named = len(servers) > 1 or not layout
            name, exact, same = (
                " ".join(filter(None, (server.name if server and is_named else "", layout, each.name if each else "")))
                for server, each in ((running, variant), (running, None), (servers[0], variant))
            )
            yield Contender(
                name=name,
                layout=layout,
                workload=self.workload if variant is None else self.workload.varied(variant),
                launch=target.launch if variant is None else target.own.get(variant.name, target.launch),
                running=running,
                variant=variant,
                beside=same if same != name else exact if exact != name else "",
            )

    @property
    def baseline(self) -> str:
        """The first u1r1, or the first column."""
        return next((each.name for each in self.contenders if each.layout == "u1r1"), self.contenders[0].name)

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
                    recipient = Recipient(client)
                    for each in together:
                        if len(together) > 1:
                            self._tell(f"  {each.name}")
                        self._measure(recipient, each, number)
        self._look()
        self.is_whole = True

    def turns(self, number: int) -> Iterator[list[Contender]]:
        """Yield the order of a round: contenders that share a server, one server after another."""
        turn = self.contenders if number % 2 else self.contenders[::-1]
        for layout in self.layouts if number % 2 else reversed(self.layouts):
            own = [each for each in turn if each.layout == layout]
            for server in dict.fromkeys((each.launch, each.running) for each in own):
                yield [each for each in own if (each.launch, each.running) == server]

    @contextmanager
    def _connected(self, together: Sequence[Contender], number: int) -> Iterator[Client]:
        launch, running = together[0].launch, together[0].running
        if running is not None:
            with Client(running.url, running.api_key) as client:
                yield client
            return
        assert launch is not None, "a server is started, or runs already"
        with serving(launch, ParallelLayout.parse(together[0].layout), number) as (url, started):
            self._tell(f"  ready in {started.ready_seconds:.1f} s")
            for each in together:
                self.started[each.name].append(started)
            with Client(url, self.target.api_key) as client:
                yield client

    def _measure(self, recipient: Recipient, contender: Contender, number: int) -> None:
        workload = contender.workload
        turn = Turn(
            column=contender.name,
            round=number,
            concurrency=workload.concurrency,
            timeout_seconds=workload.said.timeout_seconds,
            layout=contender.layout or None if contender.running is not None else None,
        )
        if warm_up := workload.warm_up():
            send(recipient, warm_up, msgspec.structs.replace(turn, concurrency=1), self._warm)
        samples: list[Sample] = []

        def hear(sample: Sample) -> None:
            samples.append(sample)
            self.samples.append(sample)
            self._say(sample)

        send(recipient, workload.round(number), turn, hear)
        if number == 1:
            self._keep_videos(recipient.client, samples)

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
            name = video_name(sample.column, sample.kind)
            if sample.fate == "completed" and sample.place == sample.kind:
                try:
                    client.download(sample.video_id, self._folder / name)
                    self._kept[name] = digest(self._folder / name)
                except (ApiError, Unreachable) as error:
                    self._tell(f"  video of request {sample.place + 1} not fetched: {error}")

    def _look(self) -> None:
        """Hold videos to those of the columns that theirs are held to, and to their prompts."""
        for each in self.contenders:
            held_to = each.beside or self.baseline
            for kind, asked in enumerate(each.workload.kinds):
                name, other = video_name(each.name, kind), video_name(held_to, kind)
                if each.name != held_to:
                    self.agreements.append(self._agreement(each.name, kind, name, other))
                if name in self._kept and can_judge(asked.prompt):
                    self.judged.append(judge_video(each.name, kind, self._folder / name, asked.prompt))

    def _agreement(self, column: str, kind: int, *names: str) -> Agreement:
        if missing := [name for name in names if name not in self._kept]:
            return Agreement(column=column, kind=kind, problem=f"there is no {' and no '.join(missing)}")
        video, other = (self._folder / name for name in names)
        return agree(column, kind, video, other)

    def result(self, command: str, expected: Sequence[Expected] = ()) -> Result:
        """Result so far. `command` is what was typed for it."""
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
            videos=self._kept,
        ).with_ratios()

    def _column(self, contender: Contender) -> Column:
        name, launch, variant = contender.name, contender.launch, contender.variant
        layout = contender.layout
        if not layout:
            layout = next((s.report.layout for s in self.samples if s.column == name and s.report is not None), "")
        return Column(
            name=name,
            layout=layout,
            command="" if launch is None else shown_command(launch, ParallelLayout.parse(layout)),
            started=self.started[name],
            variant="" if variant is None else variant.name,
            says="" if variant is None else variant.said,
            beside=contender.beside,
            server=contender.running.name if contender.running is not None and len(self.target.running) > 1 else "",
        )


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
