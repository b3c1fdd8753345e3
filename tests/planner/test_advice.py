"""What is said where memory does not suffice: how much is lacking, and the least change that is predicted to fit."""

from __future__ import annotations

import re

import msgspec
import pytest

from ringlight.core.layout import ParallelLayout
from ringlight.core.plain import bytes_of
from ringlight.core.request import RequestDefaults
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B as SPEC
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.advice import remedy, shortage, smaller_video
from ringlight.planner.hardware import Card, Hardware, RunSettings
from ringlight.planner.machine import Machine, WeightsPlace
from ringlight.planner.prediction import predict

REQUEST = RequestDefaults().complete("a film", SPEC)
WORK = Work.of(SPEC, REQUEST)


def machine(gib: float, most_ranks: int = 8) -> Machine:
    card = msgspec.structs.replace(catalogue.card("h100-sxm"), memory_bytes=int(gib * 2**30))
    hardware = Hardware(card=card, link=catalogue.link("nvlink4"))
    return Machine(hardware=hardware, basis="H100", most_ranks=most_ranks)


def shortage_of(here: Machine, layout: ParallelLayout | None = None) -> str | None:
    return shortage(REQUEST, here, predict(WORK, layout or ParallelLayout(), here))


@pytest.mark.parametrize(
    ("gib", "layout", "part"),
    [
        (48, "u1r1", "--memory-budget 47.0GiB ("),
        (8, "u1r1", "--memory-budget 7.0GiB ("),
        (6, "u1r1", "--memory-budget 5.0GiB ("),
        (5, "u1r1", "--memory-budget 4.0GiB --vae-dtype bfloat16 ("),
        (4, "u1r1", "--memory-budget 3.0GiB --num-gpus 2 (u2r1) ("),
        (4, "u1r2", "--memory-budget 3.0GiB ("),
    ],
)
def test_the_least_change_is_named(gib: int, layout: str, part: str) -> None:
    """Of workers that have all weights on the device. First what changes nothing of the video."""
    said = remedy(WORK, ParallelLayout.parse(layout), machine(gib))
    assert said is not None
    assert said.startswith("predicted to fit with " + part)
    assert said.endswith(f"of {gib - 1}.0 GiB)")


def test_a_budget_that_is_too_small_is_told_the_least_that_is_not() -> None:
    settings = RunSettings(memory_budget_bytes=2**31)
    here = msgspec.structs.replace(machine(24), settings=settings, residency="placed")
    said = remedy(WORK, ParallelLayout(), here)
    assert said is not None
    found = re.fullmatch(r"predicted to fit with --memory-budget ([0-9.]+)GiB \(.* of \1 GiB\)", said)
    assert found is not None
    tenth = int(0.1 * 2**30)
    for num_bytes, fits in ((bytes_of(f"{found[1]}GiB"), True), (bytes_of(f"{found[1]}GiB") - tenth, False)):
        other = msgspec.structs.replace(settings, memory_budget_bytes=num_bytes)
        assert predict(WORK, ParallelLayout(), msgspec.structs.replace(here, settings=other)).fits == fits
    said = shortage_of(here)
    assert said == "1280x704 with 121 frames needs 4.4 GiB on a rank of u1r1, which has 2.0 (the memory budget)"
    cores = Hardware(card=catalogue.cores(2), link=catalogue.link("loopback"))
    said = shortage_of(msgspec.structs.replace(here, hardware=cores))
    assert said is not None and said.endswith("which has 2.0 (the memory budget)")


@pytest.mark.parametrize("residency", ["any", "placed"])
def test_no_budget_is_named_where_there_is_none_to_raise(residency: WeightsPlace) -> None:
    """Whoever may keep weights on the host does so already."""
    said = remedy(WORK, ParallelLayout(), msgspec.structs.replace(machine(6), residency=residency))
    assert said is not None and said.startswith("predicted to fit with --vae-dtype bfloat16 (")


def test_no_more_ranks_are_named_than_there_are() -> None:
    said = remedy(WORK, ParallelLayout(), machine(30, most_ranks=1))
    assert said is not None and "--num-gpus" not in said


def test_nothing_is_said_where_nothing_fits() -> None:
    assert remedy(WORK, ParallelLayout(), machine(1.5, most_ranks=2)) is None
    assert smaller_video(WORK, ParallelLayout(), machine(1.5)) is None


def test_a_shortage_tells_what_there_is_and_what_is_needed() -> None:
    said = shortage_of(machine(24))
    assert said is not None and said.startswith("1280x704 with 121 frames needs ")
    assert said.endswith(" GiB on a rank of u1r1, which has 23.5 (H100 SXM)")
    assert shortage_of(machine(80)) is None


def test_what_is_merely_tight_is_not_refused() -> None:
    """The allocator gives back its slack before it fails, and a driver may take less than is assumed."""
    here = machine(80)
    plan = predict(WORK, ParallelLayout(), here)
    tight = machine((plan.worst_memory.peak_allocated_bytes + 0.6 * 2**30) / 2**30)
    assert not predict(WORK, ParallelLayout(), tight).fits
    assert shortage_of(tight) is None


@pytest.mark.parametrize(("gib", "field"), [(33, "size"), (26, "size")])
def test_a_client_is_told_the_largest_size_that_fits(gib: float, field: str) -> None:
    here = machine(gib)
    assert shortage_of(here) is not None
    found = smaller_video(WORK, ParallelLayout(), here)
    assert found is not None and found[0] == field
    width, height = map(int, found[1].split("x"))
    assert fits(here, width=width, height=height)
    assert not fits(here, width=width + 40 + 32, height=height + 22 + 32)  # a 32nd more, and what rounding took


def test_a_client_is_told_the_most_frames_that_fit() -> None:
    """Of a long film, whose sequence is what needs the memory."""
    long = msgspec.structs.replace(REQUEST, num_frames=1001)
    here = machine(36.5)
    found = smaller_video(Work.of(SPEC, long), ParallelLayout(), here)
    assert found is not None and found[0] == "num_frames"
    assert fits(here, num_frames=int(found[1])) and not fits(here, num_frames=int(found[1]) + 4)


def fits(here: Machine, **changes: int) -> bool:
    return predict(Work.of(SPEC, msgspec.structs.replace(REQUEST, **changes)), ParallelLayout(), here).fits


def advice(card: Card, layout: str, settings: RunSettings, most_ranks: int) -> str | None:
    here = Machine(
        hardware=Hardware(card=card, link=catalogue.link("pcie4")), settings=settings, basis="", most_ranks=most_ranks
    )
    return remedy(WORK, ParallelLayout.parse(layout), here)


def test_the_largest_video_that_fits_is_named() -> None:
    """Not the first change with which any does: a smaller one would fit as it is."""
    card = msgspec.structs.replace(catalogue.card("rtx4090"), memory_bytes=3 * 2**30)
    said = advice(card, "u1r1", RunSettings(), 1)
    assert said is not None and "--memory-budget 2.0GiB --size" in said
    width, height = map(int, said.split("--size ")[1].split()[0].split("x"))
    assert width * height > 10 * 192 * 96


def test_a_cpu_is_told_of_the_least_budget_and_of_bfloat16() -> None:
    """All that a budget leaves is for weights that ranks share."""
    for gib, flags in ((24, "--memory-budget 15.3GiB ("), (8, "--memory-budget 8.0GiB --vae-dtype bfloat16 (")):
        cores = msgspec.structs.replace(catalogue.cores(2), memory_bytes=gib * 2**30)
        said = advice(cores, "u1r1", RunSettings(dtype="float32"), 1)
        assert said is not None and said.startswith(f"predicted to fit with {flags}")
