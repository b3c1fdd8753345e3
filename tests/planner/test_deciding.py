"""How a job runs: as asked, else as sizes and speeds say, those that were measured before those that are assumed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringlight.core.plan import Abilities, JobPlan, Speeds
from ringlight.families.traffic import denoising_bytes
from ringlight.planner.deciding import choose_slices, job_plan, link_to_layer
from ringlight.planner.denoising import block_of
from ringlight.planner.hardware import Correction, RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.measured import as_measured
from ringlight.planner.memory import spare_bytes
from ringlight.planner.prediction import predict
from tests.planner.specs import REAL, layout, machine, work

FILM = work(num_frames=25)
NAMES = ("u1r2", "u2r1", "u2r2", "c2u1r2")


def here(link: float | None = None, **settings: Any) -> Machine:
    """A machine whose ranks have measured 100 TFLOP/s and such a link, or nothing yet."""
    found = machine("rtx4090-48g", "pcie4", settings=RunSettings(**settings))
    if link is None:
        return found
    speeds = Speeds(link_bytes_per_second=link, flops_per_second=1e14)
    return msgspec.structs.replace(found, abilities=Abilities(spare_bytes=2**34, speeds=speeds))


@pytest.mark.parametrize(
    ("ratio", "alone", "in_turns"),
    [(0.0, 1, 1), (0.05, 1, 1), (0.2, 2, 1), (0.6, 3, 2), (1.0, 4, 2), (9.0, 4, 2)],
)
def test_more_slices_the_slower_the_link(ratio: float, alone: int, in_turns: int) -> None:
    assert choose_slices(ratio, 1000, in_turns=False) == alone
    assert choose_slices(ratio, 1000, in_turns=True) == in_turns


def test_few_tokens_are_not_cut_to_crumbs() -> None:
    assert [choose_slices(1.0, tokens, False) for tokens in (0, 1, 31, 32, 64)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("name", NAMES)
def test_the_ratio_is_what_a_layer_sends_to_what_it_computes(name: str) -> None:
    """By all bytes and all operations of a forward, of which every layer has as many."""
    there = layout(name)
    sent = denoising_bytes(FILM, there, 0, num_slices=4, itemsize=2)
    forwards = FILM.num_calls * FILM.num_forwards(there)
    link_seconds = (sent.get("ring", 0) + sent.get("ulysses", 0)) / forwards / 12e9
    seconds = REAL.transformer.forward_flops(FILM.num_tokens) / there.sp / 1e14
    assert link_to_layer(FILM, there, as_measured(FILM, there, here(12e9))) == pytest.approx(link_seconds / seconds)


@pytest.mark.parametrize("name", NAMES)
def test_a_slower_link_is_sent_ahead_on_whatever_was_assumed_of_it(name: str) -> None:
    plans = [job_plan(FILM, layout(name), here(rate)) for rate in (1e8, 1e9, 1e10, 1e11, 1e13)]
    slices = [plan.num_slices for plan in plans]
    assert slices == sorted(slices, reverse=True) and slices[0] > slices[-1] == 1
    is_two = FILM.num_forwards(layout(name)) == 2
    assert (plans[0].take_turns, plans[-1].take_turns) == (is_two, False)


@pytest.mark.parametrize("rate", [None, 1e8, 1e13])
def test_what_is_asked_for_is_done_at_any_speed(rate: float | None) -> None:
    plan = job_plan(FILM, layout("u1r2"), here(rate, num_slices=3, decode_chunk=2))
    assert (plan.num_slices, plan.take_turns, plan.decode_chunk) == (3, True, 2)


def test_what_ranks_can_spare_decides_in_the_place_of_what_a_card_has() -> None:
    def chunk(spare_bytes: int) -> int:
        met = msgspec.structs.replace(here(), abilities=Abilities(spare_bytes=spare_bytes))
        return job_plan(FILM, layout("u1r1"), met).decode_chunk

    assert job_plan(FILM, layout("u1r1"), here()).decode_chunk == chunk(spare_bytes(REAL, layout("u1r1"), here()))
    chunks = [chunk(num_bytes) for num_bytes in (0, 2**37, 2**40)]
    assert chunks[0] == 1 < chunks[1] < chunks[2]


def test_a_single_rank_sends_nothing() -> None:
    plan = job_plan(FILM, layout("u1r1"), msgspec.structs.replace(here(), abilities=Abilities(spare_bytes=0)))
    assert plan == JobPlan()


@pytest.mark.parametrize("name", NAMES)
def test_predicted_seconds_are_those_that_ranks_measured(name: str) -> None:
    there, assumed, measured = layout(name), here(), here(12e9)
    met = as_measured(FILM, there, measured)
    flops = REAL.transformer.forward_flops(FILM.num_tokens) / REAL.transformer.num_layers / there.sp
    assert block_of(FILM, there, 1, met).seconds == pytest.approx(flops / 1e14)
    assert met.link.bytes_per_second == 12e9 and met.link.latency_seconds == assumed.link.latency_seconds
    assert as_measured(FILM, there, met) == met
    before, after = predict(FILM, there, assumed), predict(FILM, there, measured)
    assert after.seconds("Denoising") != before.seconds("Denoising")
    decoding = [next(each for each in found.stages if each.name == "Decoding") for found in (before, after)]
    assert decoding[0].compute_seconds == pytest.approx(decoding[1].compute_seconds), (
        "a block tells nothing of a GPU's convolutions"
    )


def test_cores_that_are_slow_in_a_block_are_slow_in_all_and_a_calibration_knows_better() -> None:
    cores, there = machine("cpu-core", "loopback", settings=RunSettings(dtype="float32")), layout("u1r2")
    speeds = Speeds(link_bytes_per_second=1e9, flops_per_second=4e10)
    met = msgspec.structs.replace(cores, abilities=Abilities(spare_bytes=0, speeds=speeds))
    pace = as_measured(FILM, there, met).pace
    assert pace > 1
    compute = [
        next(each for each in predict(FILM, there, found).stages if each.name == "Decoding").compute_seconds
        for found in (cores, met)
    ]
    assert compute[1] == pytest.approx(pace * compute[0])
    calibrated = msgspec.structs.replace(met.hardware, correction=Correction(by_stage={"Denoising": 1.5}))
    assert as_measured(FILM, there, msgspec.structs.replace(met, hardware=calibrated)).pace == 1.0


@pytest.mark.parametrize("name", ["u1r1", *NAMES])
def test_ranks_agree_about_twice_a_second_within_steps_that_are_long(name: str) -> None:
    """A step is as many blocks as forwards of them; where both forwards take turns, each block is of both."""
    there, network = layout(name), REAL.transformer
    for num_frames in (5, 25, 121):
        for flops in (1e12, 1e13, 1e14, 1e15):
            speeds = Speeds(link_bytes_per_second=1e10, flops_per_second=flops)
            met = msgspec.structs.replace(here(), abilities=Abilities(spare_bytes=2**34, speeds=speeds))
            video = work(num_frames=num_frames)
            found = predict(video, there, met)
            step = (found.seconds("Denoising") or 0.0) / video.num_calls
            passes = 1 if found.take_turns else video.num_forwards(there)
            between = found.blocks_per_agreement * step / passes / network.num_layers
            assert (between > 0) == (step > 2.0)
            assert between <= 0.5 or found.blocks_per_agreement == 1
            assert not between or 0.2 < between < 0.5 or found.blocks_per_agreement == 1


def test_a_device_that_nobody_knows_may_be_ten_times_as_slow() -> None:
    """Until its ranks have measured how fast it is."""
    there, known = layout("u1r1"), here()
    unknown = msgspec.structs.replace(known, stands_in=True)
    short, long = work(num_frames=25), work(num_frames=121)
    few, many = (predict(long, there, found).blocks_per_agreement for found in (unknown, known))
    assert 0 < few < many < 20 * few
    assert predict(short, there, known).blocks_per_agreement == 0
    assert predict(short, there, unknown).blocks_per_agreement > 0
    met = msgspec.structs.replace(unknown, abilities=here(1e10).abilities)
    assert predict(short, layout("u1r2"), met).blocks_per_agreement == 0
