"""What plans reckon for LoRAs: of the expert that has most, on the fly or merged for every pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringlight.core.eight_bit import KINDS
from ringlight.core.host import LEFT_BYTES
from ringlight.core.lora import Lora
from ringlight.core.plan import Placement
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model
from ringlight.families.wan.work.transformer import BLOCK_WEIGHTS
from ringlight.families.work import Work
from ringlight.planner.adapting import adapter_bytes, adding_seconds, hosted_adapter_bytes, merging_bytes
from ringlight.planner.host_room import host_copy_bytes
from ringlight.planner.machine import Machine
from ringlight.planner.memory import denoising_weights
from ringlight.planner.places import places
from ringlight.planner.prediction import predict
from tests.planner.specs import layout, machine, request

A14B = known_model("Wan2.2-T2V-A14B")
MIB, GIB = 2**20, 2**30
RANK_64 = 614 * MIB  # of all matrices of A14B's blocks, in bfloat16
CARD = machine("rtx4090", "pcie4", residency="placed")


def asked(spec: ModelSpec = A14B, *loras: Lora, **fields: Any) -> Work:
    made = request(spec, **{"width": 832, "height": 480, "num_frames": 33} | fields)
    return Work.of(spec, msgspec.structs.replace(made, lora=loras))


def in_eight_bits() -> ModelSpec:
    held = dict.fromkeys(BLOCK_WEIGHTS, KINDS["F8_E4M3"])
    return msgspec.structs.replace(A14B, transformer=msgspec.structs.replace(A14B.transformer, held=held))  # type: ignore[type-var]


def lora(num_bytes: int, **fields: Any) -> Lora:
    return Lora(name="lora", num_bytes=num_bytes, **fields)


def test_one_expert_is_at_work_with_its_own() -> None:
    high, low, both = lora(300, target="high"), lora(500, target="low"), lora(70)
    assert adapter_bytes(asked(A14B, high, low, both)) == 570
    assert adapter_bytes(asked(A14B, high, both)) == 370
    assert adapter_bytes(asked()) == 0
    one = known_model("Wan2.1-T2V-14B")
    assert adapter_bytes(asked(one, both, high)) == 370


def test_each_rank_has_all_of_them_in_main_memory_where_weights_lie_there() -> None:
    """Which leaves less for histories, of every rank; where all lies on a card, nothing of them stays on the host."""
    work, plain = asked(A14B, lora(RANK_64, target="high"), lora(MIB)), asked()
    taken = RANK_64 + MIB
    for ranks in ("u1r1", "u1r2"):
        found, without = (predict(each, layout(ranks), CARD) for each in (work, plain))
        assert found.placement is not None and without.placement is not None
        assert {rank.host_bytes for rank in found.memory} == {without.worst_memory.host_bytes + taken}
        rows = {row.part: row for row in places(work, layout(ranks), CARD, found.plan)}
        assert (rows["LoRAs, each rank's own"].place, rows["LoRAs, each rank's own"].num_bytes) == ("host", taken)
    assert hosted_adapter_bytes(work, machine("cpu-core", "loopback", residency="placed")) == 0


def test_histories_have_what_loras_leave_of_the_host() -> None:
    """A host that has room for the history that is wanted, and for less of it beside LoRAs."""
    small = msgspec.structs.replace(CARD, settings=msgspec.structs.replace(CARD.settings, memory_budget_bytes=5 * GIB))
    large = msgspec.structs.replace(small, host_bytes=2**40)
    usual = predict(asked(), layout("u1r1"), large)
    assert usual.placement is not None and usual.placement.host_history and usual.worst_memory.host_bytes > 0
    needed = host_copy_bytes(A14B, large) + LEFT_BYTES + usual.worst_memory.host_bytes
    tight = msgspec.structs.replace(small, host_bytes=needed)
    assert predict(asked(), layout("u1r1"), tight).placement == usual.placement
    crowded = predict(asked(A14B, lora(RANK_64)), layout("u1r1"), tight)
    assert RANK_64 < crowded.worst_memory.host_bytes <= usual.worst_memory.host_bytes
    assert crowded.placement is not None and crowded.placement.host_history < usual.placement.host_history


@pytest.mark.parametrize("streamed", [0, 1, 40])
def test_a_cpu_merges_into_copies_of_the_blocks_that_it_shares(streamed: int) -> None:
    cpu: Machine = machine("cpu-core", "loopback", residency="placed")
    placement, work = Placement(streamed_blocks=streamed), asked(A14B, lora(RANK_64))
    block = A14B.transformer.layers.block.forward_bytes(cpu.settings.itemsize)
    plain = denoising_weights(asked(), cpu, placement)
    assert denoising_weights(work, cpu, placement) == plain + min(2, streamed) * block
    assert denoising_weights(work, CARD, placement) == denoising_weights(asked(), CARD, placement)
    assert (merging_bytes(work), merging_bytes(asked())) == (96 * MIB, 0)


def test_seconds_are_those_of_what_is_computed() -> None:
    """On the fly two operations a value and token; merged, what passes through memory, of the blocks that come."""
    tokens, block = 10_000, A14B.transformer.layers.block
    kept, all_of_it = (
        sum(each.inputs + each.outputs for each in matrices)
        for matrices in ([block.to_qkv, *block.after_attention], [block.to_qkv, *block.after_attention, *block.to_keys])
    )
    values = RANK_64 / 2 / A14B.transformer.num_layers * kept / all_of_it
    held = asked(in_eight_bits(), lora(RANK_64))
    assert adding_seconds(held, CARD, tokens, None, 2) == pytest.approx(2 * tokens * values / CARD.products)
    assert adding_seconds(held, CARD, tokens, Placement(streamed_blocks=40), 1) == pytest.approx(
        2 * tokens * values / CARD.products
    )
    merged = asked(A14B, lora(RANK_64))
    assert adding_seconds(merged, CARD, tokens, None, 1) == 0
    placements = [(40, 1), (20, 1), (40, 2)]
    all_come, half, shared = (
        adding_seconds(merged, CARD, tokens, Placement(streamed_blocks=n), m) for n, m in placements
    )
    assert all_come == pytest.approx(2 * half) == pytest.approx(2 * shared) and all_come < 0.05
    matrices = 6 * 5120**2 + 2 * 5120 * 13824  # of a block, but for keys of texts
    products = 2.0 * 64 * matrices / CARD.float32_products
    assert all_come == pytest.approx(products + 36 * matrices / CARD.memory_rate, rel=0.03)
    assert adding_seconds(asked(), CARD, tokens, Placement(streamed_blocks=40), 1) == 0


def test_plans_have_room_for_them_and_say_where() -> None:
    budget = machine("rtx4090", "pcie4", residency="placed")
    plain, with_lora = (predict(asked(A14B, *loras), layout("u1r1"), budget) for loras in ((), (lora(RANK_64),)))
    assert with_lora.fits and with_lora.placement is not None and plain.placement is not None
    assert with_lora.placement.streamed_blocks > plain.placement.streamed_blocks
    assert with_lora.seconds("Denoising") > plain.seconds("Denoising")  # type: ignore[operator]
    rows = {row.part: row for row in places(asked(A14B, lora(RANK_64)), layout("u1r1"), budget, with_lora.plan)}
    assert (rows["LoRAs"].place, rows["LoRAs"].num_bytes) == ("device", RANK_64)
    assert "LoRAs" not in {row.part for row in places(asked(), layout("u1r1"), budget, plain.plan)}
