#!/usr/bin/env python3
"""Writes the parts of docs/ that follow from the code: calls, fields, commands, settings, errors, metrics, the Python
interface, plans, and the index of all pages.

They stand between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a file is left as it is.

    scripts/write_docs.py            # write them
    scripts/write_docs.py --check    # exit with 1 and name the files that are out of date; write nothing
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from prometheus_client.metrics import MetricWrapperBase

from reference import commands, failures, interface, navigation
from reference.markdown import bounds, first_sentence, table
from ringlight.cli.hardware_flags import AskedHardware
from ringlight.cli.settings import variable
from ringlight.core.codes import CODES, ErrorKind
from ringlight.core.config import EngineConfig
from ringlight.core.named_samplers import SAMPLERS
from ringlight.core.report import GIB
from ringlight.core.request import RequestLimits, stand_ins
from ringlight.core.video_fields import VIDEO_FIELDS
from ringlight.engine.jobs import Pauses
from ringlight.engine.runner import ReplicaState
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model, model_defaults
from ringlight.families.work import Work
from ringlight.planner.costs import ORDINARY_PROMPT
from ringlight.planner.planner import plan
from ringlight.server.api.openapi import describe
from ringlight.server.api.routes import batches, content, system, videos
from ringlight.server.collection.uploads import UploadTally
from ringlight.server.observability.metrics import Metrics

DOCS = Path(__file__).resolve().parents[1] / "docs"
ASKED = ("CreateVideo", "RemixVideo", "ExtendVideo", "CreateBatch")
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
UNBOUNDED = 2**62  # a range that ends beyond it says nothing to a reader


def calls() -> str:
    """A line for every call of the API."""
    rows = [
        (f"`{method.upper()} {path}`", first_sentence(operation.get("description", "")))
        for path, methods in _described()["paths"].items()
        for method, operation in methods.items()
    ]
    return table(("call", "what it does"), rows)


def fields_of(name: str) -> str:
    """A line for every field of one of the API's schemas."""
    schema = _described()["components"]["schemas"][name]
    required = schema.get("required", ()) if name in ASKED else ()
    rows = [
        (
            f"`{field}`",
            kind(each),
            ("Required. " if field in required else "") + " ".join(each.get("description", "").split()),
        )
        for field, each in schema["properties"].items()
    ]
    return table(("field", "kind", "meaning"), rows)


def codes() -> str:
    """A section for every code of an error."""
    return "\n".join(_section_of(code, kind) for code, kind in sorted(CODES.items())).rstrip()


def limits() -> str:
    """A table of the limits that an operator sets on requests."""
    rows = [(f"`{name}`", _env(name), f"{value}") for name, value in msgspec.structs.asdict(RequestLimits()).items()]
    return table(("under `limits:`", "environment", "default"), rows)


def defaults() -> str:
    """A table of what a request may leave out."""
    rows = [
        (f"`{field.name}`", field.rules.default_rule if field.default in (None, ()) else f"{field.default}" or "empty")
        for field in VIDEO_FIELDS
    ]
    return table(("under `defaults:`", "model card"), rows)


def samplers() -> str:
    """A table of what a request may name as its sampler."""
    rows = []
    for name, sampler in SAMPLERS.items():
        shifted = (sampler.flow_shift * s / (1 + (sampler.flow_shift - 1) * s) for s in sampler.sigmas)
        told = sampler.timesteps or tuple(1000 * sigma for sigma in shifted)
        sigmas = ", ".join(f"{s:g}" for s in sampler.sigmas)
        times = ", ".join(f"{time:.1f}".removesuffix(".0") for time in told)
        rows.append(
            (f"`{name}`", sampler.method, sigmas, f"{sampler.flow_shift:g}" if sigmas else "", times, sampler.about)
        )
    head = ("`sampler`", "method", "sigmas before the shift", "shift", "the network is told", "what it is, or for whom")
    return table(head, rows)


def metrics() -> str:
    """A table of all series that /metrics has."""
    counted = Metrics()
    counted.watch(Nothing(), "model", "u1r1")
    # prometheus_client does not tell the labels of a metric that has no sample yet in any other way.
    labels: dict[str, Sequence[str]] = {
        next(iter(each.describe())).name: each._labelnames
        for each in vars(counted).values()
        if isinstance(each, MetricWrapperBase)
    }
    rows = []
    for family in counted.registry.collect():
        names = labels.get(family.name, getattr(family, "_labelnames", ()))
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append((f"`{name}`", family.type, ", ".join(names), family.documentation))
    return table(("series", "kind", "labels", "meaning"), sorted(rows))


EXPERTS = ("Wan2.2-T2V-A14B", "Wan2.2-I2V-A14B")
SIZES = ((640, 640), (1280, 720))
MACHINES: tuple[dict[str, str], ...] = (  # card, budget and main memory, as `ringlight plan` takes them
    {"gpu": "rtx4090"},
    {"gpu": "rtx4090", "memory_budget": "12.5GiB"},
    {"gpu": "rtx4090", "host_memory": "32GiB"},
    {"gpu": "rtx6000-ada"},
    {"gpu": "a100-80g"},
)


def expert_plans() -> str:
    """A table of what plans say of models with two experts, on one card."""
    rows = [_plan_row(known_model(name), size, **each) for name in EXPERTS for size in SIZES for each in MACHINES]
    head = ("model", "video", "card", "budget", "main memory", "blocks from the host", "seconds", "peak (GiB)")
    return table((*head, "weights on the host (GiB)"), rows)


def _plan_row(
    spec: ModelSpec, size: tuple[int, int], gpu: str, memory_budget: str = "", host_memory: str = ""
) -> tuple[str, ...]:
    width, height = size
    asked = AskedHardware(gpu=gpu, host_memory=host_memory)
    machine = asked.settle(spec, EngineConfig(model_path="", memory_budget=memory_budget))
    request = model_defaults(spec).complete(
        ORDINARY_PROMPT, spec, width=width, height=height, num_frames=81, seed=0, **stand_ins(spec)
    )
    choice = plan(Work.of(spec, request), machine, "latency").choices[0]
    found, card = choice.prediction, machine.hardware.card
    memory = f"{card.name}, {card.memory_bytes / GIB:.0f} GiB"
    begin = (spec.name, f"{width}x{height}", memory, memory_budget or "the card's", host_memory or "enough")
    if not found.fits:
        return (*begin, choice.reason, "", "", "")
    blocks = "none" if found.placement is None else str(found.placement.streamed_blocks or "none")
    on_host = f"{found.host_copy_bytes / GIB:.1f}" if found.host_copy_bytes else "all on the card"
    return (*begin, blocks, f"{found.total_seconds:,.0f}", f"{found.worst_memory.peak_bytes / GIB:.1f}", on_host)


class Nothing:
    """A server that has done nothing (metrics.ServerState)."""

    def queue_length(self) -> int:
        return 0

    def num_paused(self) -> int:
        return 0

    def pauses(self) -> Pauses:
        return Pauses()

    def count_by_status(self) -> Mapping[str, int]:
        return {}

    def store_bytes(self) -> int:
        return 0

    def uploads(self) -> UploadTally:
        return UploadTally()

    def replicas(self) -> Sequence[ReplicaState]:
        return []

    def num_wanted(self) -> int:
        return 0


BLOCKS: dict[str, Callable[[], str]] = {
    "calls": calls,
    "create-fields": lambda: fields_of("CreateVideo"),
    "remix-fields": lambda: fields_of("RemixVideo"),
    "extend-fields": lambda: fields_of("ExtendVideo"),
    "video-fields": lambda: fields_of("Video"),
    "batch-create-fields": lambda: fields_of("CreateBatch"),
    "batch-fields": lambda: fields_of("Batch"),
    "model-fields": lambda: fields_of("ModelCard"),
    "codes": codes,
    "settings": lambda: commands.options(commands.ringlight.commands["serve"], "### {}"),
    "limits": limits,
    "defaults": defaults,
    "samplers": samplers,
    "metrics": metrics,
    "expert-plans": expert_plans,
    "navigation": navigation.as_lists,
    "commands": commands.overview,
    "exits": failures.exits,
    "command-options": commands.all_commands,
    "errors": failures.errors,
    "exceptions": failures.exceptions,
    "python-engine": interface.making,
    "python-client": interface.client,
    "python-errors": interface.errors,
}


def rewrite(text: str) -> str:
    """A file with its generated parts as they should be. Raises KeyError for a name that is none of BLOCKS."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def kind(schema: Mapping[str, Any]) -> str:
    """What a field holds, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        kinds = dict.fromkeys(map(kind, schema["anyOf"]))
        return " or ".join(each for each in kinds if each != "null") + _range(schema)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values if value is not None)
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything")) + _range(schema)


def _described() -> dict[str, Any]:
    app = FastAPI()
    for routes in (videos, content, batches, system):
        app.include_router(routes.router)
    return describe(app, needs_key=True)


def _range(schema: Mapping[str, Any]) -> str:
    high = schema.get("maximum")
    between = bounds(schema.get("minimum"), None if high is None or high > UNBOUNDED else high)
    return f", {between}" if between else ""


def _section_of(code: str, kind: ErrorKind) -> str:
    where = f"HTTP {kind.status}"
    if kind.ends_jobs:
        where += ", or the `error` of a video that failed"
    headers = [] if kind.retry is None else [f"x-should-retry: {str(kind.retry).lower()}"]
    headers += [] if kind.retry_seconds is None else [f"retry-after: {kind.retry_seconds:g}"]
    if headers:
        where += "; " + ", ".join(f"`{header}`" for header in headers)
    return f"### `{code}`\n\n{where}\n\n{kind.meaning} {kind.remedy}\n"


def _env(name: str) -> str:
    return f"`{variable(name)}`"


def main() -> None:
    """Exit codes: 0, 1 out of date."""
    parser = argparse.ArgumentParser(description="Write the parts of docs/ that follow from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where something is out of date"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder")
    asked = parser.parse_args()
    is_stale = False
    for path in sorted(asked.docs.rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = rewrite(before)
        if before == after:
            continue
        is_stale = True
        print(f"{path.name}: {'out of date; run scripts/write_docs.py' if asked.check else 'written'}")
        if not asked.check:
            path.write_text(after, encoding="utf-8")
    sys.exit(asked.check and is_stale)


if __name__ == "__main__":
    main()
