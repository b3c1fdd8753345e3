"""A benchmark from its first request to its result: every column once a round, in an order that turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ringlight.bench.agreement import Agreement, agree
from ringlight.bench.expected import Expected, expect
from ringlight.bench.result import Column, Result
from ringlight.bench.sending import Sample, Turn, send
from ringlight.bench.servers import Launch, Started, serving, shown_command
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
    """Who is measured: servers that we launch, or one that runs already, by its URL."""

    launch: Launch | None = None
    url: str = ""
    api_key: str | None = None


class Benchmark:
    """Rounds of a workload over columns, and what came of them so far."""

    def __init__(
        self, workload: Workload, layouts: Sequence[str], target: Target, num_rounds: int, folder: Path, tell: Tell
    ) -> None:
        """`layouts` are columns; none is a running server's own. Videos of the first round are kept in `folder`.

        `tell` hears of every step, a line each.
        """
        self.workload, self.target, self.num_rounds = workload, target, num_rounds
        self.layouts = list(layouts) or ["server"]
        self.samples: list[Sample] = []
        self.started: dict[str, list[Started]] = {name: [] for name in self.layouts}
        self.agreements: list[Agreement] = []
        self.is_whole = False
        self._asks_for_layouts = bool(layouts)
        self._folder = folder
        self._tell = tell

    @property
    def baseline(self) -> str:
        """The first u1r1, or the first column."""
        return "u1r1" if "u1r1" in self.layouts else self.layouts[0]

    def run(self) -> None:
        """All rounds. What is found so far is in `samples`, also where this is interrupted or raises."""
        for number in range(1, self.num_rounds + 1):
            for name in self.layouts if number % 2 else reversed(self.layouts):
                self._tell(f"round {number} of {self.num_rounds}: {name}")
                with self._connected(name, number) as client:
                    self._measure(client, name, number)
        self._compare()
        self.is_whole = True

    @contextmanager
    def _connected(self, name: str, number: int) -> Iterator[Client]:
        target = self.target
        if target.launch is None:
            with Client(target.url, target.api_key) as client:
                yield client
            return
        with serving(target.launch, ParallelLayout.parse(name), number) as (url, started):
            self._tell(f"  ready in {started.ready_seconds:.1f} s")
            self.started[name].append(started)
            with Client(url, target.api_key) as client:
                yield client

    def _measure(self, client: Client, name: str, number: int) -> None:
        turn = Turn(
            column=name,
            round=number,
            concurrency=self.workload.concurrency,
            timeout_seconds=self.workload.said.timeout_seconds,
            layout=name if self.target.launch is None and self._asks_for_layouts else None,
        )
        if warm_up := self.workload.warm_up():
            send(client, warm_up, msgspec.structs.replace(turn, concurrency=1), self._warm)
        samples: list[Sample] = []

        def hear(sample: Sample) -> None:
            samples.append(sample)
            self.samples.append(sample)
            self._say(sample)

        send(client, self.workload.round(number), turn, hear)
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
                except (ApiError, Unreachable) as error:
                    self._tell(f"  video of request {sample.place + 1} not fetched: {error}")

    def _compare(self) -> None:
        for name in self.layouts:
            for kind in range(len(self.workload.kinds)):
                video, other = self._video(name, kind), self._video(self.baseline, kind)
                if name != self.baseline and video.exists() and other.exists():
                    self.agreements.append(agree(name, kind, video, other))

    def _video(self, column: str, kind: int) -> Path:
        return self._folder / "videos" / f"{column}_request{kind + 1}.mp4"

    def result(self, command: str, expected: Sequence[Expected] = ()) -> Result:
        """What is found so far. `command` is what was typed for it."""
        said = self.workload.said
        return Result(
            name=said.name,
            description=said.description,
            workload=self.workload.content(),
            workload_hash=self.workload.sha256,
            titles=[kind.title for kind in self.workload.kinds],
            baseline=self.baseline,
            num_rounds=self.num_rounds,
            columns=[self._column(name) for name in self.layouts],
            samples=self.samples,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=command,
            machine=machine(),
            is_whole=self.is_whole,
            agreements=self.agreements,
            expected=list(expected),
        )

    def _column(self, name: str) -> Column:
        launch = self.target.launch
        if launch is None:
            found = next((s.report.layout for s in self.samples if s.column == name and s.report is not None), "")
            return Column(name=name, layout=name if self._asks_for_layouts else found)
        command = shown_command(launch, ParallelLayout.parse(name))
        return Column(name=name, layout=name, command=command, started=self.started[name])


def expectations(
    samples: Sequence[Sample], spec: ModelSpec, known: Calibration | None, link: LinkRates
) -> list[Expected]:
    """What was to be expected of each column, kind of request and number of slices that has a report of this model."""
    found: dict[tuple[str, int, int], Expected] = {}
    for sample in samples:
        report = sample.report
        if report is not None and report.workload.get("model_sha256") == spec.fingerprint:
            key = (sample.column, sample.kind, report.num_slices)
            found[key] = found.get(key) or expect(sample.column, sample.kind, report, spec, known, link)
    return list(found.values())


def machine() -> dict[str, Any]:
    """The machine that the requests were sent from, which for our own servers is theirs too."""
    return {
        "cores": num_cores(),
        "memory_gib": round(memory_bytes() / GIB, 1),
        "system": platform.platform(),
    }
