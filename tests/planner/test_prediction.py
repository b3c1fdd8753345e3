"""What a prediction must satisfy: sums, bytes, and which way each figure moves."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from ringlight.core.layout import ParallelLayout
from ringlight.families.traffic import denoising_bytes
from ringlight.planner import catalogue
from ringlight.planner.advice import nearest_that_fits
from ringlight.planner.denoising import block_of
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.planner import layouts
from ringlight.planner.prediction import predict
from tests.planner.specs import REAL, demo_spec, layout, machine, work

SMALL = demo_spec("small")
CARDS_4090 = machine("rtx4090-48g", "pcie4")
EVERY = [each.name for each in layouts(REAL, 8, guidance=True)]


@pytest.mark.parametrize("name", EVERY)
def test_sums_and_bytes_hold_for_every_layout(name: str) -> None:
    """Rows sum to the total, link is hidden or exposed, and bytes are core/traffic's to the last one."""
    asked = work(num_frames=25, image=b"\0")
    found = predict(asked, layout(name), CARDS_4090)
    assert found.total_seconds == pytest.approx(sum(stage.seconds for stage in found.stages))
    assert [stage.name for stage in found.stages] == [
        "InputValidation",
        "TextEncoding",
        "ImageEncoding",
        "LatentPreparation",
        "Denoising",
        "Decoding",
        "Output",
        "Other",
    ]
    for stage in found.stages:
        assert 0 <= stage.exposed_seconds <= stage.link_seconds + 1e-9
        assert stage.link_seconds == pytest.approx(stage.hidden_seconds + stage.exposed_seconds)
    assert len(found.memory) == len(found.sent_bytes) == found.num_ranks
    for rank, (memory, sent) in enumerate(zip(found.memory, found.sent_bytes, strict=True)):
        assert memory.rank == rank
        most = max(memory.denoising_bytes, memory.decoding_bytes)
        assert memory.peak_allocated_bytes == memory.weights_bytes + most
        assert memory.peak_bytes == memory.peak_allocated_bytes + memory.slack_bytes
        if found.num_ranks == 1:
            assert sent == {}
            continue
        denoising = denoising_bytes(asked, layout(name), rank, found.num_slices, 2)
        decoding = REAL.vae.decoder.sent_bytes(found.num_ranks, rank, (7, 44, 80), 1, 4)
        encoding = REAL.vae.encoder.sent_bytes(found.num_ranks, rank, (44, 80), 4)
        for kind in ("ring", "ulysses", "cfg"):
            assert sent.get(kind, 0) == denoising.get(kind, 0)
        assert sent.get("halo", 0) == decoding["halo"] + encoding["halo"]
        assert sent.get("gather", 0) == denoising.get("gather", 0) + decoding["gather"] + encoding["gather"]
        assert sent.get("frames", 0) == decoding["frames"]


@pytest.mark.parametrize("name", ["u1r2", "u2r1", "u3r1", "u2r2", "u5r1", "u1r4"])
@pytest.mark.parametrize("ahead", [False, True])
def test_what_a_block_sends_is_what_all_of_denoising_sends_by_blocks(name: str, ahead: bool) -> None:
    asked, there, num_slices = work(num_frames=25), layout(name), 4 if ahead else 1
    assert (asked.num_tokens, asked.num_calls, asked.num_forwards(there)) == (6160, 50, 2)
    block = block_of(asked, there, num_slices, CARDS_4090)
    sent = denoising_bytes(asked, there, 0, num_slices, 2)
    blocks = 50 * 2 * REAL.transformer.num_layers
    assert block.ring_bytes * blocks == sent.get("ring", 0)
    assert (block.there_bytes + block.back_bytes) * blocks == sent.get("ulysses", 0)


def test_edge_rows_of_the_decoders_convolutions_are_the_halo_of_traffic() -> None:
    vae = REAL.vae
    edges = sum(
        layer.inputs * layer.scale * (1 + layer.frames * 30) for layer in vae.decoder.convolutions if layer.has_halo
    )
    assert edges * 80 * 4 == vae.decoder.sent_bytes(2, 0, (31, 44, 80), 1, 4)["halo"]


def test_one_rank_computes_the_transformers_operations() -> None:
    """On a card that does only products and attention, at one and the same rate."""
    card = msgspec.structs.replace(
        catalogue.card("h100-sxm"), memory_bytes_per_second=math.inf, launch_seconds=0.0, fractions=catalogue.MEASURED
    )
    even = msgspec.structs.replace(card, fractions=msgspec.structs.replace(card.fractions, attention=1.0))
    found = predict(work(), layout("u1r1"), Machine(hardware=Hardware(card=even, link=catalogue.link("pcie4"))))
    expected = 100 * REAL.transformer.forward_flops(27_280) / even.bf16_flops
    assert found.seconds("Denoising") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["u1r1", "u1r2", "u2r2", "c2u2r1", "u1r8"])
def test_more_work_takes_longer_and_a_better_machine_less(name: str) -> None:
    """On a slower link with slices that stay the same: how many are sent is the pipeline's choice, by rule of thumb."""

    def total(here: Machine = CARDS_4090, **fields: Any) -> float:
        return predict(work(**fields), layout(name), here).total_seconds

    assert total(num_frames=25) < total(num_frames=49) < total(num_frames=121)
    assert total(num_inference_steps=10) < total(num_inference_steps=20)
    assert total(width=832, height=480) < total(width=1280, height=704)
    assert total(machine("h100-sxm", "pcie4")) < total(machine("a100-80g", "pcie4")) < total()
    links = ("pcie4-p2p", "pcie4", "ethernet25", "ethernet10")
    slower = [total(machine("rtx4090-48g", link, settings=RunSettings(num_slices=2))) for link in links]
    assert slower == sorted(slower)


def test_ranks_share_what_they_hold() -> None:
    peaks = [predict(work(), layout(name), CARDS_4090).worst_memory for name in ("u1r1", "u2r1", "u4r1", "u8r1")]
    assert [peak.weights_bytes for peak in peaks] == sorted((peak.weights_bytes for peak in peaks), reverse=True)
    assert [peak.denoising_bytes for peak in peaks] == sorted((peak.denoising_bytes for peak in peaks), reverse=True)


def test_without_guidance_a_second_branchs_ranks_share_the_sequence() -> None:
    off = work(guidance_scale=1.0)
    assert predict(off, layout("c2u1r1"), CARDS_4090).layout == "u2r1"
    half = predict(off, layout("u1r1"), CARDS_4090).seconds("Denoising")
    whole = predict(work(), layout("u1r1"), CARDS_4090).seconds("Denoising")
    assert half is not None
    assert whole == pytest.approx(2 * half)


def test_a_picture_is_encoded_only_where_there_is_one() -> None:
    assert predict(work(), layout("u1r1"), CARDS_4090).seconds("ImageEncoding") is None


def test_what_does_not_fit_is_told_what_would() -> None:
    small = machine("rtx4090", "pcie4", most_ranks=8)
    for name in ("c2u1r1", "u1r1"):
        found = predict(work(), layout(name), small)
        assert not found.fits
        assert found.bound == "memory"
        change = nearest_that_fits(work(), layout(name), small)
        assert change is not None
        assert change.prediction.fits
        assert change.flags == "--memory-budget 23.0GiB"


def test_a_card_that_not_even_what_has_to_stay_fits_on_has_no_remedy() -> None:
    tiny_card = msgspec.structs.replace(catalogue.card("rtx4090"), memory_bytes=int(1.5 * 2**30))
    tiny = Machine(hardware=Hardware(card=tiny_card, link=catalogue.link("pcie4")), most_ranks=2)
    assert nearest_that_fits(work(), layout("u1r1"), tiny) is None


def test_more_ranks_than_rows_or_tokens_are_predicted_too() -> None:
    asked = work(SMALL, width=32, height=32, num_frames=1)
    found = predict(asked, ParallelLayout(ulysses=2, ring=8), machine("cpu-core", "loopback"))
    assert found.total_seconds > 0
    assert len(found.memory) == 16


def test_bound_says_when_it_is_the_link() -> None:
    asked = work(num_frames=25)
    assert predict(asked, layout("u1r8"), machine("rtx4090-48g", "ethernet10")).bound == "link"
    assert predict(asked, layout("c2u1r1"), machine("rtx4090-48g", "ethernet10")).bound == "compute"
