"""What others published of this model, beside what the plan says: a check of the model, row by row.

`python -m tests.planner.published` prints the tables of docs/the_page.md. Nothing is fitted to a row: all rows use
the catalogue's cards and links.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.report import GIB
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction, predict


class Published(msgspec.Struct, frozen=True):
    """A published row: who, on what, which work, and seconds by stage."""

    source: str
    card: str
    link: str
    layout: str
    work: str
    seconds: dict[str, float]


WORK: dict[str, dict[str, Any]] = {
    "page": {"num_frames": 25, "image": b"\0"},
    "25 frames": {"num_frames": 25},
    "121 frames": {"num_frames": 121},
    "480p": {"num_frames": 49, "width": 832, "height": 480, "num_inference_steps": 40},
}
OFFICIAL, CHECK, OMNI = "official code", "SGLang's H100 check", "vLLM-Omni"
ROWS = (
    Published(
        "the page",
        "rtx4090-48g",
        "pcie4",
        "u1r1",
        "page",
        {"TextEncoding": 2.2261, "Denoising": 71.6785, "Decoding": 13.4314, "Total": 90.63},
    ),
    Published(
        "the page",
        "rtx4090-48g",
        "pcie4",
        "u1r2",
        "page",
        {"TextEncoding": 1.3965, "Denoising": 52.6358, "Decoding": 7.6708, "Total": 63.74},
    ),
    Published(OFFICIAL, "rtx4090-48g", "pcie4", "u1r1", "121 frames", {"Total": 534.7}),
    Published(OFFICIAL, "rtx4090-48g", "pcie4", "u4r1", "121 frames", {"Total": 231.3}),
    Published(OFFICIAL, "rtx4090-48g", "pcie4", "u8r1", "121 frames", {"Total": 157.2}),
    Published(
        CHECK,
        "h100-sxm",
        "nvlink4",
        "u1r1",
        "25 frames",
        {"TextEncoding": 0.33, "Denoising": 12.7, "Decoding": 2.17, "Total": 15.6},
    ),
    Published(OMNI, "h800-sxm", "nvlink4-h800", "u1r1", "480p", {"Total": 22.5}),
    Published(OMNI, "h800-sxm", "nvlink4-h800", "u1r2", "480p", {"Total": 14.7}),
    Published(OMNI, "h800-sxm", "nvlink4-h800", "u2r1", "480p", {"Total": 14.5}),
)


def request_of(work: str) -> VideoRequest:
    """The request that a row's work stands for."""
    return RequestDefaults().complete("a prompt " * 34, WAN22_TI2V_5B, negative_prompt="b" * 300, seed=0, **WORK[work])


def prediction_of(row: Published, layout: str | None = None, budget_bytes: int = 0) -> Prediction:
    """What Ringlight would take there, on the row's layout or another, with all on the card or within a budget."""
    hardware = Hardware(card=catalogue.card(row.card), link=catalogue.link(row.link))
    machine = Machine(
        hardware=hardware,
        settings=RunSettings(memory_budget_bytes=budget_bytes),
        residency="placed" if budget_bytes else "resident",
    )
    return predict(Work.of(WAN22_TI2V_5B, request_of(row.work)), ParallelLayout.parse(layout or row.layout), machine)


def as_they_do(row: Published) -> dict[str, float]:
    """Seconds by stage with nothing of the link hidden, and one rank decoding alone, as the official code does."""
    found, alone = prediction_of(row), prediction_of(row, "u1r1")
    seconds = {stage.name: stage.compute_seconds + stage.link_seconds for stage in found.stages}
    seconds["Decoding"] = alone.seconds("Decoding") or 0.0
    return seconds | {"Total": sum(seconds.values())}


def as_ringlight(row: Published, layout: str | None = None) -> dict[str, float]:
    """Seconds by stage as Ringlight would run it."""
    found = prediction_of(row, layout)
    return {stage.name: stage.seconds for stage in found.stages} | {"Total": found.total_seconds}


def errors() -> dict[tuple[str, str, str], tuple[float, float]]:
    """(source, layout, stage) -> relative errors: as Ringlight runs, and with nothing hidden and one rank decoding."""
    return {
        (row.source, row.layout, stage): (
            as_ringlight(row)[stage] / seconds - 1,
            as_they_do(row)[stage] / seconds - 1,
        )
        for row in ROWS
        for stage, seconds in row.seconds.items()
    }


def comparison_table() -> Iterator[str]:
    """Every published figure beside both predictions."""
    yield "| Source | Card | Layout | Stage | Published (s) | Ringlight (s) | Error | Unhidden (s) | Error |"
    yield "|---|---|---|---|---:|---:|---:|---:|---:|"
    for row in ROWS:
        ours, theirs = as_ringlight(row), as_they_do(row)
        for stage, seconds in row.seconds.items():
            mine = f"{ours[stage]:.2f} | {ours[stage] / seconds - 1:+.0%}"
            other = f"{theirs[stage]:.2f} | {theirs[stage] / seconds - 1:+.0%}"
            name = row.source if row.work == "page" else f"{row.source}, {row.work}"
            yield f"| {name} | {row.card} | {row.layout} | {stage} | {seconds:.2f} | {mine} | {other} |"


def page_table() -> Iterator[str]:
    """The page's layouts and the one that Ringlight would choose, on the page's cards."""
    yield "| Layout | Denoising (s) | Decoding (s) | Total (s) | Speedup | Hidden / exposed (s) | Allocated (GiB) |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    base = prediction_of(ROWS[0])
    for name in ("u1r1", "u1r2", "u2r1", "c2u1r1"):
        found = prediction_of(ROWS[0], name)
        stages = " | ".join(f"{found.seconds(stage) or 0:.2f}" for stage in ("Denoising", "Decoding"))
        peak = found.worst_memory.peak_allocated_bytes / GIB
        yield (
            f"| {name} | {stages} | {found.total_seconds:.2f} | {base.total_seconds / found.total_seconds:.2f}x "
            f"| {found.hidden_seconds:.2f} / {found.exposed_seconds:.2f} | {peak:.2f} |"
        )


def budget_table() -> Iterator[str]:
    """The same within the page's memory, and within the smallest cards that many have."""
    columns = ("Budget (GiB)", "Denoising (s)", "Decoding (s)", "Total (s)", "Bus exposed (s)", "Allocated (GiB)")
    yield f"| Layout | {' | '.join(columns)} |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, budgets in (("u1r1", (20.4, 9.31)), ("u1r2", (13.35, 5.59)), ("c2u1r1", (13.35, 5.59))):
        for budget in budgets:
            found = prediction_of(ROWS[0], name, int(budget * GIB))
            assert found.fits
            stages = " | ".join(f"{found.seconds(stage) or 0:.2f}" for stage in ("Denoising", "Decoding"))
            peak = found.worst_memory.peak_allocated_bytes / GIB
            yield (
                f"| {name} | {budget:.2f} | {stages} | {found.total_seconds:.2f} | {found.bus_exposed_seconds:.2f} "
                f"| {peak:.2f} |"
            )


def streaming_table() -> Iterator[str]:
    """The page's Denoising if each forward streams all weights of the transformer from host memory under its work."""
    yield "| Host to card (GB/s) | u1r1 (s) | u1r2 (s) | Speedup |"
    yield "|---:|---:|---:|---:|"
    num_bytes = WAN22_TI2V_5B.transformer.layers.parameters * RunSettings().itemsize
    forwards = 2 * request_of("page").num_inference_steps
    computed = {name: prediction_of(ROWS[0], name).seconds("Denoising") or 0.0 for name in ("u1r1", "u1r2")}
    for gigabytes in (25, 20, 16, 12):
        one, two = (max(computed[name], forwards * num_bytes / gigabytes / 1e9) for name in ("u1r1", "u1r2"))
        yield f"| {gigabytes} | {one:.1f} | {two:.1f} | {one / two:.2f}x |"


def prose() -> Iterator[str]:
    """Every figure of the document's sentences that follows from its tables, with the words around it."""
    known, one, two = errors(), *(prediction_of(row) for row in ROWS[:2])
    unhidden, published = as_they_do(ROWS[1])["Denoising"], ROWS[0].seconds
    denoising, decoding = (one.seconds(stage) or 0.0 for stage in ("Denoising", "Decoding"))
    (ring,) = (stage for stage in two.stages if stage.name == "Denoising")
    yield f"({published['Denoising']:.1f} s published, {denoising:.1f} s predicted)"
    yield f"({published['Decoding']:.1f} s, {decoding:.1f} s;"
    yield f"about {ring.link_seconds / ring.compute_seconds * 100:.0f} % of its computation"
    yield f'the {unhidden:.1f} s of the table below under "unhidden", and the speedup is {denoising / unhidden:.2f}x'
    yield f"and one card still {denoising:.0f}."
    yield f"TextEncoding** of {published['TextEncoding']:.1f} s against a predicted {one.seconds('TextEncoding'):.2f} s"
    yield f"{decoding / (two.seconds('Decoding') or 1.0):.2f}x predicted"
    alone, *many = (known[OFFICIAL, name, "Total"][1] for name in ("u1r1", "u4r1", "u8r1"))
    yield f"the official code on one 4090 ({alone * 100:.0f} %)"
    yield f"nothing is hidden or shared ({many[0] * 100:.0f} and {many[1] * 100:.0f} %)"
    worth = (as_they_do(row)["Total"] / as_ringlight(row)["Total"] for row in ROWS[3:5])
    yield f"between the two columns, {' and '.join(f'{times:.1f}x' for times in worth)},"
    yield f"SGLang on an H100: Denoising {known[CHECK, 'u1r1', 'Denoising'][0] * 100:+.0f} %"
    for said, source, stage in (("TextEncoding everywhere", "", "TextEncoding"), ("vLLM-Omni on H800", OMNI, "Total")):
        off = [ours * 100 for (who, _, what), (ours, _) in known.items() if what == stage and source in who]
        yield f"{said} ({max(off):.0f} to {min(off):.0f} %)"


TABLES = (page_table, budget_table, streaming_table, comparison_table)

if __name__ == "__main__":
    print("\n\n".join("\n".join(table()) for table in TABLES))
