"""Where everything is kept: what a budget makes of a request, and that nothing that fits would be quicker."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from ringlight.core.eight_bit import EightBit
from ringlight.core.plan import JobPlan, Placement
from ringlight.families.wan.work.transformer import BLOCK_WEIGHTS
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.deciding import job_plan, resident_plan
from ringlight.planner.decoding_cost import decoding
from ringlight.planner.denoising import denoising
from ringlight.planner.hardware import Correction, Hardware, RunSettings
from ringlight.planner.least import ROUNDED, Least
from ringlight.planner.machine import Machine, WeightsPlace
from ringlight.planner.memory import CPU_OWN_BYTES, SLOTS, block_weights, memory_by_rank
from ringlight.planner.places import places
from ringlight.planner.placing import decoding_options, denoising_options
from ringlight.planner.planner import plan
from ringlight.planner.prediction import Prediction, predict
from tests.planner.specs import REAL, layout, work

GIB = 2**30
PAGE = work(num_frames=25, image=b"\0")
LONG = work()
WIDE = work(num_frames=81, width=832, height=480)


def within(
    gigabytes: float, card: str = "rtx4090", bus: str | None = None, residency: WeightsPlace = "any", **settings: Any
) -> Machine:
    """Cards with a budget in GB, none for 0."""
    found = catalogue.card(card)
    found = msgspec.structs.replace(found, bus=bus or found.bus)
    wanted = RunSettings(memory_budget_bytes=int(gigabytes * 1e9), **settings)
    hardware = Hardware(card=found, link=catalogue.link("pcie4"))
    return Machine(hardware=hardware, settings=wanted, residency=residency, most_ranks=8)


def cores(gib: float, budget_gib: float = 0.0, residency: WeightsPlace = "placed", dtype: str = "float32") -> Machine:
    card = msgspec.structs.replace(catalogue.cores(2), memory_bytes=int(gib * GIB))
    hardware = Hardware(card=card, link=catalogue.link("loopback"), correction=Correction(base_bytes=450 * 2**20))
    settings = RunSettings(dtype=dtype, memory_budget_bytes=int(budget_gib * GIB))  # type: ignore[arg-type]
    return Machine(hardware=hardware, settings=settings, residency=residency)


def loss(found: Prediction, asked: Work, here: Machine) -> float:
    """Of Denoising and Decoding, beside all on the device of a card that has room for it."""
    card = msgspec.structs.replace(here.card, memory_bytes=2**40)
    roomy = Machine(hardware=msgspec.structs.replace(here.hardware, card=card), residency="resident")
    settings = msgspec.structs.replace(here.settings, memory_budget_bytes=0, decode_chunk=found.decode_chunk)
    resident = predict(asked, layout(found.layout), msgspec.structs.replace(roomy, settings=settings))
    assert resident.placement is None
    mine, its = (sum(p.seconds(name) or 0.0 for name in ("Denoising", "Decoding")) for p in (found, resident))
    return mine / its - 1


@pytest.mark.parametrize(
    ("card", "gigabytes", "name", "asked"),
    [
        ("rtx4090", 10, "u1r1", PAGE),  # the goals
        ("rtx4090", 6, "u1r2", PAGE),
        ("rtx4090", 6, "u2r1", PAGE),
        ("rtx4090", 6, "c2u1r1", PAGE),
        ("rtx4090", 10, "u1r1", LONG),
        ("rtx4090", 10, "u1r1", WIDE),
        ("rtx4060", 0, "u1r1", PAGE),  # all that a card of 8 GB has
        ("rtx4060", 0, "u1r1", LONG),
        ("rtx3060", 0, "u1r1", LONG),
    ],
)
def test_a_small_budget_costs_nothing_that_can_be_told(card: str, gigabytes: float, name: str, asked: Work) -> None:
    here = within(gigabytes, card)
    found = predict(asked, layout(name), here)
    assert found.fits and found.placement is not None
    assert found.worst_memory.peak_bytes <= (gigabytes * 1e9 or 2**40)
    assert 0 <= loss(found, asked, here) < ROUNDED
    denoising_stage = next(stage for stage in found.stages if stage.name == "Denoising")
    assert denoising_stage.bus_exposed_seconds < 0.2 < denoising_stage.bus_seconds


@pytest.mark.parametrize("gigabytes", [12, 8, 6, 5, 4.5])
@pytest.mark.parametrize("name", ["u1r1", "u1r2", "c2u1r1"])
@pytest.mark.parametrize("bus", ["pcie4x16", "pcie3x8"])
def test_nothing_that_fits_is_quicker(gigabytes: float, name: str, bus: str) -> None:
    """All ways are tried, one by one, to a thousandth."""
    here, there = within(gigabytes, bus=bus), layout(name)
    plain = resident_plan(PAGE, there, here)
    taken, limit = job_plan(PAGE, there, here), here.settings.memory_budget_bytes
    denoised = [option for options in denoising_options(PAGE, there, here, plain).values() for option in options]
    for stage, options in ((denoising, denoised), (decoding, decoding_options(PAGE, there, here, plain))):
        fitting = [option for option in options if option.peak_bytes <= limit]
        if fitting:
            least = min(stage(PAGE, there, here, option.plan).seconds for option in fitting)
            assert stage(PAGE, there, here, taken).seconds <= 1.001 * least
        else:
            assert not predict(PAGE, there, here).fits


@pytest.mark.parametrize("name", ["u1r1", "u1r2", "c2u1r1", "u2r2"])
def test_options_reckon_with_the_same_bytes_as_predictions(name: str) -> None:
    here, there = within(6), layout(name)
    plain = resident_plan(PAGE, there, here)
    for turns, options in denoising_options(PAGE, there, here, plain).items():
        for option in options:
            assert option.plan.take_turns == turns
            assert _peak(there, here, option.plan, "Denoising") == option.peak_bytes
    for option in decoding_options(PAGE, there, here, plain):
        assert _peak(there, here, option.plan, "Decoding") == option.peak_bytes


def _peak(there: Any, here: Machine, made: JobPlan, name: str) -> int:
    stage = memory_by_rank(PAGE, there, here, made)[0].stages[name]
    return stage.allocated_bytes + stage.slack_bytes


def test_more_memory_never_takes_longer_and_streams_less() -> None:
    for name in ("u1r1", "u1r2"):
        found = [predict(PAGE, layout(name), within(gb, bus="pcie3x8")) for gb in (6.5, 7, 8, 9, 10, 11, 12, 14)]
        seconds = [each.total_seconds for each in found]
        assert all(after <= 1.001 * before for before, after in pairwise(seconds))
        streamed = [each.placement.streamed_blocks for each in found if each.placement]
        assert streamed == sorted(streamed, reverse=True) and streamed[0] > streamed[-1]
        assert all(each.worst_memory.peak_bytes <= each.usable_bytes for each in found)


def test_both_branches_share_a_pass_where_the_bus_is_what_is_waited_for() -> None:
    """A slow slot, on one rank: two passes would take twice the traffic. One branch a rank has nothing to share."""
    found = predict(PAGE, layout("u1r1"), within(6.5, bus="pcie3x8"))
    assert found.placement is not None and found.placement.streamed_blocks > 5
    assert found.take_turns
    two = msgspec.structs.replace(found.plan, take_turns=False)
    here = within(6.5, bus="pcie3x8")
    assert denoising(PAGE, layout("u1r1"), here, two).seconds > (found.seconds("Denoising") or 0.0) + 1
    assert not predict(PAGE, layout("c2u1r1"), within(4.5)).take_turns


def test_what_comes_over_the_bus_is_what_placements_say() -> None:
    """By hand, at 25 GB/s: blocks of every pass without what makes keys of texts, parts of the decoder by visits."""
    here, there, layers = within(6), layout("u1r1"), REAL.transformer.layers

    def bus(stage: Any, placement: Placement, **changes: Any) -> float:
        seconds: float = stage(PAGE, there, here, JobPlan(placement=placement, **changes)).bus_seconds
        return seconds * 25e9

    block, once = layers.block.forward_bytes(2), layers.outside_bytes(2) + 30 * 2 * layers.block.text_parameters
    assert bus(denoising, Placement()) == pytest.approx(once + 30 * block)
    assert bus(denoising, Placement(streamed_blocks=12), take_turns=True) == pytest.approx(
        once + (18 + 50 * 12) * block
    )
    assert bus(denoising, Placement(streamed_blocks=12)) == pytest.approx(once + (18 + 2 * 50 * 12) * block)
    parts = REAL.vae.decoder.parts
    assert bus(decoding, Placement()) == pytest.approx(4 * sum(parts))
    streamed = Placement(streams_decoder=True, frames_at_once=2)  # a latent frame becomes two frames, then four
    later = sum(parts[:3]) + 2 * sum(parts[3:])
    assert bus(decoding, streamed) == pytest.approx(4 * (sum(parts) + 6 * later))
    hosted = Placement(host_history=1, frames_at_once=2)
    kept = [sum(layer.history_elements(44, 80, False) for layer in stage) for stage in REAL.vae.decoder.stages]
    assert bus(decoding, hosted) == pytest.approx(4 * (sum(parts) + 6 * 2 * sum(kept[-2:])))


def test_what_may_not_stream_does_not_and_what_must_does() -> None:
    there, roomy = layout("u1r1"), "rtx4090-48g"
    assert job_plan(PAGE, there, within(0, roomy)).placement is None
    assert job_plan(PAGE, there, within(0, roomy, residency="placed")).placement == Placement()
    assert job_plan(PAGE, there, within(6, residency="resident")).placement is None
    assert job_plan(PAGE, there, within(0)).placement is not None


def test_a_portion_that_is_asked_for_is_kept() -> None:
    assert predict(PAGE, layout("u1r1"), within(12, decode_chunk=2)).decode_chunk == 2


def test_slots_count_only_where_they_save_something() -> None:
    whole = block_weights(REAL, within(6), Placement())
    for count in range(1, SLOTS + 1):
        assert block_weights(REAL, within(6), Placement(streamed_blocks=count)) == whole
    block = REAL.transformer.layers.block.forward_bytes(2)
    assert whole - block_weights(REAL, within(6), Placement(streamed_blocks=10)) == 7 * block
    without = denoising_options(PAGE, layout("u1r1"), within(6), JobPlan())[False]
    assert [option.placement.streamed_blocks for option in without] == [0, *range(SLOTS + 1, 31)]


def test_a_step_reads_all_but_what_makes_keys_of_texts() -> None:
    """163.7 M parameters a block of which 18.9 M are needed once: 289.5 MB in bfloat16 (float32 tables among them)."""
    layers = REAL.transformer.layers
    assert layers.block.text_parameters == 2 * 3072 * 3073 + 3072
    assert layers.block.forward_bytes(2) == 2 * (163_656_704 - layers.block.text_parameters) + 2 * 8 * 3072
    whole = layers.num_blocks * (layers.block.forward_bytes(2) + 2 * layers.block.text_parameters)
    assert layers.outside_bytes(2) + whole == layers.bytes(2)


def test_on_a_cpu_a_budget_bounds_what_is_a_ranks_own() -> None:
    """What the host has for all is used in place: no slots, no traffic, and in float32 slower products."""
    asked, there = work(num_frames=5, width=320, height=192), layout("u1r1")
    kept, streamed = (predict(asked, there, cores(128, budget)) for budget in (40, 6))
    assert kept.placement is not None and kept.placement.streamed_blocks == 0
    assert streamed.placement is not None and streamed.placement.streamed_blocks > 10
    assert streamed.placement.host_history == 0 and not streamed.take_turns
    assert streamed.fits and streamed.worst_memory.peak_bytes <= 6 * GIB
    assert streamed.worst_memory.base_bytes == CPU_OWN_BYTES
    assert streamed.worst_memory.stages["TextEncoding"].weights_bytes == 0
    seconds = [next(s for s in found.stages if s.name == "Denoising") for found in (kept, streamed)]
    share = streamed.placement.streamed_blocks / 30
    assert 1 < seconds[1].compute_seconds / seconds[0].compute_seconds < 1 + 0.12 * share
    halves = [predict(asked, there, cores(128, budget, dtype="bfloat16")) for budget in (40, 6)]
    seconds = [next(s for s in found.stages if s.name == "Denoising") for found in halves]
    assert seconds[1].compute_seconds == pytest.approx(seconds[0].compute_seconds)


@pytest.mark.parametrize("name", ["u1r1", "u1r2", "c2u1r1", "u2r2"])
def test_the_least_memory_is_where_the_loss_begins(name: str) -> None:
    here, there = within(0), layout(name)
    least = Least(PAGE, there, here)
    found = [least.bytes(allowed) for allowed in (0.0, 0.05, 0.5)]
    assert found == sorted(found, reverse=True)
    for allowed, num_bytes in zip((0.0, 0.05), found, strict=False):
        settings = RunSettings(memory_budget_bytes=num_bytes)
        exact = predict(PAGE, there, msgspec.structs.replace(here, settings=settings))
        assert exact.fits
        assert loss(exact, PAGE, here) <= max(allowed, ROUNDED) + 1.5e-3
        less = msgspec.structs.replace(settings, memory_budget_bytes=num_bytes - 2**20)
        other = predict(PAGE, there, msgspec.structs.replace(here, settings=less))
        assert not other.fits or loss(other, PAGE, here) > max(allowed, ROUNDED) - 1.5e-3


def test_places_are_all_that_a_rank_holds() -> None:
    """What lies on the device while a stage runs, summed over the table, is what the prediction says."""
    for name, gigabytes in (("u1r1", 10), ("u1r2", 6), ("u1r1", 6.5)):
        here, there = within(gigabytes), layout(name)
        found = predict(PAGE, there, here)
        rows = {(row.place, row.part): row.num_bytes for row in places(PAGE, there, here, found.plan)}
        device = {part: size for (place, part), size in rows.items() if place == "device"}
        denoised = [part for part in device if "block" in part or part.endswith("Denoising") or "keys" in part]
        decoded = [part for part in device if "decoder" in part or "history" in part or part.endswith("Decoding")]
        stages = found.worst_memory.stages
        assert sum(device[part] for part in denoised) == stages["Denoising"].allocated_bytes
        assert sum(device[part] for part in decoded) == stages["Decoding"].allocated_bytes
        host = sum(size for (place, part), size in rows.items() if place == "host" and "history" in part)
        assert host == found.worst_memory.host_bytes
    here = within(0, "rtx4090-48g")
    found = predict(PAGE, layout("u1r1"), here)
    rows_resident = places(PAGE, layout("u1r1"), here, found.plan)
    assert {row.place for row in rows_resident} == {"device"}
    weights = sum(row.num_bytes for row in rows_resident if row.why == "all fits at once")
    assert weights == found.worst_memory.weights_bytes


def test_every_layout_of_a_plan_is_told_its_least() -> None:
    found = plan(PAGE, msgspec.structs.replace(within(6), most_ranks=4))
    assert len(found.choices) == 11 and all(0 < c.least_bytes_at_5_percent <= c.least_bytes for c in found.choices)
    assert found.chosen is not None and found.chosen.prediction.num_ranks == 4
    assert found.places[0].part == "token table"


def test_weights_in_eight_bits_are_counted_as_they_lie() -> None:
    """Half of the bytes to hold and to bring, a scale for each row; two blocks are widened at a time."""
    layers = REAL.transformer.layers.block
    held = dict.fromkeys(BLOCK_WEIGHTS, EightBit("float8_e4m3fn"))
    eight = msgspec.structs.replace(REAL.transformer, held=held).layers.block
    dim, matrices = 3072, (eight.to_qkv, *eight.after_attention)
    numbers, rows = sum(each.inputs * each.outputs for each in matrices), sum(each.outputs for each in matrices)
    assert layers.forward_bytes(2) - eight.forward_bytes(2) == numbers - 4 * rows
    assert layers.text_bytes(2) - eight.text_bytes(2) == 2 * dim * dim - 4 * 2 * dim
    assert (layers.widened_bytes(2), eight.widened_bytes(2)) == (0, 2 * numbers)
    spec = msgspec.structs.replace(REAL, transformer=msgspec.structs.replace(REAL.transformer, held=held))
    assert eight.parameters == layers.parameters and spec.fingerprint != REAL.fingerprint
