"""RunReport: where every second and every gigabyte of one run went. Bytes in JSON, GiB in tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ringlight.core.plan import Placement, PredictedReport
from ringlight.core.warning import Warnings

SCHEMA_VERSION = 2
GIB = 2**30
TOTAL = "Total"
N = TypeVar("N", int, float)

LEAST_SECONDS = 1e-3  # that a stage took, for a ratio to tell anything


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: seconds with the device synchronised at both ends, and the peak of memory within it."""

    name: str
    seconds: float
    peak_bytes: int


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one rank over a run.

    On CUDA: peaks of the caching allocator; overhead is its slack, reserved - allocated, and the ratio is
    overhead / reserved. On a CPU these are null and the peak resident size stands there, with its growth over
    the idle worker (weights loaded, nothing running); or, where ranks share their weights, the peak of what a rank has
    of its own (anonymous memory).
    """

    rank: int
    device: str
    peak_reserved_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    overhead_bytes: int | None = None
    overhead_ratio: float | None = None
    peak_resident_bytes: int | None = None
    idle_resident_bytes: int | None = None
    resident_growth_bytes: int | None = None
    peak_own_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        return self.peak_reserved_bytes or self.peak_resident_bytes or self.peak_own_bytes or 0


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic of one kind between ranks, of one rank: bytes it sent, and seconds it waited for others' or its own."""

    sent_bytes: int = 0
    wait_seconds: float = 0.0

    def __add__(self, other: LinkReport) -> LinkReport:
        return LinkReport(
            sent_bytes=self.sent_bytes + other.sent_bytes, wait_seconds=self.wait_seconds + other.wait_seconds
        )


class WeightsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one rank that do not lie on its device all the time.

    `host_bytes` are the host's copy, which all ranks of a machine share, of which `pinned_bytes` are page-locked. By
    network, and of the decoder's history of frames: the bytes that came to the device in a run, and the seconds that
    the computation waited for them. A CPU computes with the host's copy, so that nothing comes.
    """

    host_bytes: int
    pinned_bytes: int = 0
    brought_bytes: dict[str, int] = {}
    wait_seconds: dict[str, float] = {}

    def after(self, earlier: WeightsReport) -> WeightsReport:
        """Sum of this turn of a job and an earlier one."""
        return msgspec.structs.replace(
            self,
            brought_bytes=_added(earlier.brought_bytes, self.brought_bytes),
            wait_seconds=_added(earlier.wait_seconds, self.wait_seconds),
        )


class LoraReport(msgspec.Struct, frozen=True, kw_only=True):
    """LoRA of a run: its name, the first digits of its file's hash, strength and target.

    `told` is what was found in the file. The rest says how it was added to how many weights, and its largest size
    against a weight that it is added to.
    """

    name: str
    sha256: str
    strength: float
    target: str
    told: str
    how: str
    largest: float


class AdaptedReport(msgspec.Struct, frozen=True, kw_only=True):
    """LoRAs of a run, and seconds to switch to them: 0 if the run before had the same."""

    seconds: float = 0.0
    loras: list[LoraReport] = []


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """Part of one rank in a run: its stages, its memory, its traffic by kind, and weights that had to come.

    The weights are None if all are on its device.
    """

    rank: int
    stages: list[StageReport]
    memory: MemoryReport
    link: dict[str, LinkReport]
    weights: WeightsReport | None = None

    def after(self, earlier: RankReport) -> RankReport:
        """Combine this turn of a job with an earlier one.

        Traffic and weights are added up. Memory is that of the turn that needed most. Stages already cover all turns.
        """
        kinds = earlier.link | self.link
        link = {kind: earlier.link.get(kind, LinkReport()) + self.link.get(kind, LinkReport()) for kind in kinds}
        weights = self.weights
        if weights is not None and earlier.weights is not None:
            weights = weights.after(earlier.weights)
        memory = max(earlier.memory, self.memory, key=lambda memory: memory.peak_bytes)
        return msgspec.structs.replace(self, memory=memory, link=link, weights=weights)


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one generation. `stages` are rank 0's; they and `other_seconds` sum to `total_seconds`.

    `num_slices` of a rank's tokens were sent ahead one by one, and `decode_chunk` latent frames decoded at a time.
    `placement` is where ranks kept what they needed; None where all lay on the device, always.
    `resumed_from_step` is the step after which a repeated job went on: what lies before it was measured by nobody.
    It made way for others `pauses` times, in all for `paused_seconds`, which no other number contains.
    Of Denoising `repeated_seconds` went into steps that were broken off for that, and made again.
    `predicted` is what a plan of the whole run said; None where nothing is known of the machine. `layout_reason` says
    why the layout is this one. `warnings` say where the video is not what was asked. `adapted` are the LoRAs that
    weights were with; None without any.
    """

    workload: dict[str, Any]
    workload_hash: str
    layout: str
    environment: dict[str, Any]
    stages: list[StageReport]
    other_seconds: float
    total_seconds: float
    step_seconds: list[float]
    ranks: list[RankReport]
    num_tokens: int
    outputs: list[str]
    num_slices: int = 1
    decode_chunk: int = 1
    placement: Placement | None = None
    resumed_from_step: int = 0
    pauses: int = 0
    paused_seconds: float = 0.0
    repeated_seconds: float = 0.0
    predicted: PredictedReport | None = None
    layout_reason: str = ""
    warnings: Warnings = ()
    adapted: AdaptedReport | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def memory(self) -> list[MemoryReport]:
        """Memory by rank."""
        return [rank.memory for rank in self.ranks]

    @property
    def worst_memory(self) -> MemoryReport:
        """Memory of the rank that needed most."""
        return max(self.memory, key=lambda memory: memory.peak_bytes)

    @property
    def worst_link(self) -> dict[str, LinkReport]:
        """Largest bytes that any rank sent and longest wait of any rank, by kind of traffic."""
        kinds = sorted({kind for rank in self.ranks for kind in rank.link})
        found = {kind: [rank.link.get(kind, LinkReport()) for rank in self.ranks] for kind in kinds}
        return {
            kind: LinkReport(
                sent_bytes=max(link.sent_bytes for link in links),
                wait_seconds=max(link.wait_seconds for link in links),
            )
            for kind, links in found.items()
        }

    @property
    def is_whole(self) -> bool:
        """Whether all of the video was made in this run, and once: as plans are."""
        return not self.resumed_from_step and not self.repeated_seconds

    @property
    def predicted_over_measured(self) -> dict[str, float]:
        """Predicted over measured seconds, by stage and for Total; empty if the run is not whole or not predicted.

        Stages that nobody predicts are left out, and those that took no time: a prompt that was known, say.
        """
        said = self.predicted
        if said is None or not self.is_whole:
            return {}
        measured = {stage.name: stage.seconds for stage in self.stages} | {TOTAL: self.total_seconds}
        predicted = said.stages | {TOTAL: said.total_seconds}
        return {
            name: predicted[name] / seconds
            for name, seconds in measured.items()
            if seconds >= LEAST_SECONDS and predicted.get(name, 0.0) > 0
        }

    def slowest(self, position: int) -> StageReport:
        """Longest of all ranks' stages at this position."""
        return max((rank.stages[position] for rank in self.ranks), key=lambda stage: stage.seconds)

    def worst_peak_bytes(self, position: int) -> int:
        """The highest peak of all ranks in the stage at this position."""
        return max(rank.stages[position].peak_bytes for rank in self.ranks)

    def to_json(self) -> bytes:
        """Indented JSON with a schema version; derived figures (worst ranks) stand in it too."""
        plain = msgspec.to_builtins(self)
        for name in ("memory", "worst_memory", "worst_link"):
            plain[name] = msgspec.to_builtins(getattr(self, name))
        return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"

    def table(self) -> str:
        """Report as Markdown tables: stages that sum to Total, then memory, and traffic if ranks share work.

        The reason for a layout of several ranks stands above them.
        """
        parts = [self._stage_table(), self._memory_table()]
        if len(self.ranks) > 1:
            parts.insert(0, [self.layout_reason])
            parts += [self._rank_table(), self._link_table()]
        parts += [self._weights_table(), self._lora_table()]
        return "\n\n".join(filter(None, map("\n".join, parts)))

    def _stage_table(self) -> list[str]:
        """Table of stages with the worst rank's peaks. With more than one rank also the slowest rank's seconds."""
        slowest = [f"{self.slowest(position).seconds:.4f}" for position in range(len(self.stages))]
        columns = {
            "Stage": [*(stage.name for stage in self.stages), "Other", "**Total**"],
            "Seconds": [*(f"{seconds:.4f}" for seconds in self._seconds), f"**{self.total_seconds:.4f}**"],
            "Share": [*(f"{seconds / self.total_seconds:.1%}" for seconds in self._seconds), "100%"],
            "Predicted (s)": self._predicted_column(),
            "Slowest rank (s)": [*slowest, "", ""] if len(self.ranks) > 1 else [],
            "Peak memory (GiB)": [
                *(f"{self.worst_peak_bytes(position) / GIB:.2f}" for position in range(len(self.stages))),
                "",
                f"{self.worst_memory.peak_bytes / GIB:.2f}",
            ],
        }
        shown = {name: cells for name, cells in columns.items() if cells}
        rule = "|---|" + "---:|" * (len(shown) - 1)
        rows = [_row(shown), rule, *(_row(cells) for cells in zip(*shown.values(), strict=True))]
        if not self.pauses:
            return rows
        times = "once" if self.pauses == 1 else f"{self.pauses} times"
        said = f"Made way for others {times}, {self.paused_seconds:.2f} s in all, which is not counted here."
        if self.repeated_seconds:
            said += f" {self.repeated_seconds:.2f} s of Denoising went into steps that were made again."
        return [*rows, "", said]

    @property
    def _seconds(self) -> list[float]:
        return [*(stage.seconds for stage in self.stages), self.other_seconds]

    def _predicted_column(self) -> list[str]:
        """Cells of the predicted column; none for a run that is not whole, because predictions are for whole ones."""
        said = self.predicted
        if said is None or not self.is_whole:
            return []
        names = [*(stage.name for stage in self.stages), "Other"]
        seconds = [said.stages.get(name) for name in names]
        return [f"{value:.4f}" if value else "" for value in [*seconds, said.total_seconds]]

    def _rank_table(self) -> list[str]:
        lines = [
            "| Rank | Device | Peak memory (GiB) | Waited for the link (s) | Sent (MiB) |",
            "|---:|---|---:|---:|---:|",
        ]
        for rank in self.ranks:
            waited = sum(link.wait_seconds for link in rank.link.values())
            sent = sum(link.sent_bytes for link in rank.link.values())
            peak = rank.memory.peak_bytes
            lines.append(
                f"| {rank.rank} | {rank.memory.device} | {peak / GIB:.2f} | {waited:.4f} | {sent / 2**20:.2f} |"
            )
        return lines

    def _link_table(self) -> list[str]:
        lines = ["| Link (worst rank) | Waited (s) | Sent (MiB) |", "|---|---:|---:|"]
        return lines + [
            f"| {kind} | {link.wait_seconds:.4f} | {link.sent_bytes / 2**20:.2f} |"
            for kind, link in self.worst_link.items()
        ]

    def _memory_table(self) -> list[str]:
        lines = ["| Memory | GiB |", "|---|---:|"]
        worst = self.worst_memory
        if worst.peak_own_bytes is not None:
            own = f"| Peak of a rank's own | {worst.peak_own_bytes / GIB:.2f} |"
            return [*lines, own, *self._predicted_rows(), *self._host_rows()]
        if worst.peak_reserved_bytes is None:
            rows = [
                ("Peak resident", worst.peak_resident_bytes),
                ("Idle worker", worst.idle_resident_bytes),
                ("Growth", worst.resident_growth_bytes),
            ]
            lines += [
                f"| {name} | {'not measured' if value is None else f'{value / GIB:.2f}'} |" for name, value in rows
            ]
            return [*lines, *self._predicted_rows()]
        gpu_rows = [
            ("Peak GPU Memory", worst.peak_reserved_bytes),
            ("Peak Allocated", worst.peak_allocated_bytes),
            ("Memory Overhead", worst.overhead_bytes),
        ]
        lines += [f"| {name} | {(value or 0) / GIB:.2f} |" for name, value in gpu_rows]
        ratio = f"| Overhead Ratio | {worst.overhead_ratio or 0:.1%} |"
        return [*lines, ratio, *self._predicted_rows(), *self._host_rows()]

    def _predicted_rows(self) -> list[str]:
        """Row of the predicted peak, of a whole run."""
        said = self.predicted
        return [] if said is None or self.resumed_from_step else [f"| Predicted peak | {said.peak_bytes / GIB:.2f} |"]

    def _host_rows(self) -> list[str]:
        """Table rows on weights on the host, if there are any."""
        weights = next((rank.weights for rank in self.ranks if rank.weights is not None), None)
        if weights is None:
            return []
        rows = [("Weights on the host, shared", weights.host_bytes), ("of which page-locked", weights.pinned_bytes)]
        return [f"| {name} | {value / GIB:.2f} |" for name, value in rows]

    def _weights_table(self) -> list[str]:
        """Table of weights by network: the most that came to any rank, and the longest that any waited for it."""
        reports = [rank.weights for rank in self.ranks if rank.weights is not None]
        names = sorted({name for report in reports for name, brought in report.brought_bytes.items() if brought})
        lines = ["| Weights (worst rank) | Brought (GiB) | Waited (s) |", "|---|---:|---:|"]
        for name in names:
            brought = max(report.brought_bytes.get(name, 0) for report in reports)
            waited = max(report.wait_seconds.get(name, 0.0) for report in reports)
            lines.append(f"| {name} | {brought / GIB:.2f} | {waited:.4f} |")
        return lines if names else []

    def _lora_table(self) -> list[str]:
        """Table of LoRAs, and how each was added."""
        if self.adapted is None:
            return []
        lines = ["| LoRA | Strength | Expert | Found | Added | Largest, of a weight |", "|---|---:|---|---|---|---:|"]
        for lora in self.adapted.loras:
            name, found = f"{lora.name} ({lora.sha256})", f"{lora.told} | {lora.how} | {lora.largest:.2%}"
            lines.append(f"| {name} | {lora.strength:g} | {lora.target} | {found} |")
        return [*lines, "", f"Switched to in {self.adapted.seconds:.2f} s."]


def _added(one: Mapping[str, N], other: Mapping[str, N]) -> dict[str, N]:
    """Numbers by name, added up."""
    found = dict(one)
    for name, number in other.items():
        found[name] = found[name] + number if name in found else number
    return found


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def workload_hash(workload: dict[str, Any]) -> str:
    """SHA-256 over the resolved fields in canonical JSON: equal hashes mean equal work."""
    return hashlib.sha256(msgspec.json.encode(workload, order="deterministic")).hexdigest()
