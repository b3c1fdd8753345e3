"""RunReport: where every second and every gigabyte of one run went. Bytes in JSON, GiB in tables."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

SCHEMA_VERSION = 1
GIB = 2**30


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: seconds with the device synchronised at both ends, and the peak of memory within it."""

    name: str
    seconds: float
    peak_bytes: int


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one rank over a run.

    On CUDA: peaks of the caching allocator; overhead is its slack, reserved - allocated, and the ratio is
    overhead / reserved. On a CPU these are null and the peak resident size stands there, with its growth over
    the idle worker (weights loaded, nothing running).
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

    @property
    def peak_bytes(self) -> int:
        return self.peak_reserved_bytes or self.peak_resident_bytes or 0


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic of one kind between ranks, of one rank: bytes it sent, and seconds it waited for others' or its own."""

    sent_bytes: int
    wait_seconds: float


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One generation, measured. `stages` and `other_seconds` sum to `total_seconds`."""

    workload: dict[str, Any]
    workload_hash: str
    layout: str
    environment: dict[str, Any]
    stages: list[StageReport]
    other_seconds: float
    total_seconds: float
    step_seconds: list[float]
    memory: list[MemoryReport]
    num_tokens: int
    outputs: list[str]
    schema_version: int = SCHEMA_VERSION

    @property
    def worst_memory(self) -> MemoryReport:
        """The rank that needed most."""
        return max(self.memory, key=lambda rank: rank.peak_bytes)

    def to_json(self) -> bytes:
        """Indented JSON with a schema version; derived figures (the worst rank) stand in it too."""
        plain = msgspec.to_builtins(self) | {"worst_memory": msgspec.to_builtins(self.worst_memory)}
        return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"

    def table(self) -> str:
        """The report as Markdown tables: stages that sum to Total, then memory."""
        lines = ["| Stage | Seconds | Share | Peak memory (GiB) |", "|---|---:|---:|---:|"]
        rows = [(stage.name, stage.seconds, f"{stage.peak_bytes / GIB:.2f}") for stage in self.stages]
        rows.append(("Other", self.other_seconds, ""))
        for name, seconds, peak in rows:
            lines.append(f"| {name} | {seconds:.4f} | {seconds / self.total_seconds:.1%} | {peak} |")
        lines.append(f"| **Total** | **{self.total_seconds:.4f}** | 100% | {self.worst_memory.peak_bytes / GIB:.2f} |")
        return "\n".join([*lines, "", *self._memory_table()])

    def _memory_table(self) -> list[str]:
        lines = ["| Memory | GiB |", "|---|---:|"]
        worst = self.worst_memory
        if worst.peak_reserved_bytes is None:
            rows = [
                ("Peak resident", worst.peak_resident_bytes),
                ("Idle worker", worst.idle_resident_bytes),
                ("Growth", worst.resident_growth_bytes),
            ]
            return lines + [
                f"| {name} | {'not measured' if value is None else f'{value / GIB:.2f}'} |" for name, value in rows
            ]
        gpu_rows = [
            ("Peak GPU Memory", worst.peak_reserved_bytes),
            ("Peak Allocated", worst.peak_allocated_bytes),
            ("Memory Overhead", worst.overhead_bytes),
        ]
        lines += [f"| {name} | {(value or 0) / GIB:.2f} |" for name, value in gpu_rows]
        return [*lines, f"| Overhead Ratio | {worst.overhead_ratio or 0:.1%} |"]


def workload_hash(workload: dict[str, Any]) -> str:
    """SHA-256 over the resolved fields in canonical JSON: equal hashes mean equal work."""
    return hashlib.sha256(msgspec.json.encode(workload, order="deterministic")).hexdigest()
