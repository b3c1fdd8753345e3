"""Which layouts there are, which one is taken, and that every other is told why not."""

from __future__ import annotations

import pytest

from ringlight.core.errors import InvalidLayout, InvalidSetting
from ringlight.planner import catalogue
from ringlight.planner.planner import Plan, layouts, plan
from tests.planner.specs import REAL, machine, work
from tests.quick import first_quick

PAGE = work(num_frames=25, image=b"\0")


def names(found: Plan) -> list[str]:
    return [choice.prediction.layout for choice in found.choices]


def test_every_layout_is_there_once() -> None:
    for guidance in (False, True):
        found = [layout.name for layout in layouts(REAL, 12, guidance)]
        assert len(found) == len(set(found))
        cfgs = (1, 2) if guidance else (1,)
        expected = sum(1 for n in range(1, 13) for c in cfgs for u in range(1, n + 1) if n % (c * u) == 0)
        assert len(found) == expected
    assert all(layout.ulysses <= 24 for layout in layouts(REAL, 30, guidance=False))


def test_two_cards_take_a_guidance_branch_each() -> None:
    found = plan(PAGE, machine("rtx4090-48g", "pcie4", most_ranks=2))
    assert found.chosen is not None
    assert found.chosen.prediction.layout == "c2u1r1"
    assert set(names(found)) == {"u1r1", "u1r2", "u2r1", "c2u1r1"}
    assert all(choice.reason for choice in found.choices)
    reasons = {choice.prediction.layout: choice.reason for choice in found.choices}
    assert reasons["c2u1r1"].startswith("chosen")
    assert "1 of 2 GPUs" in reasons["u1r1"]


def test_without_guidance_the_sequence_is_shared() -> None:
    found = plan(work(guidance_scale=1.0), machine("rtx4090-48g", "pcie4", most_ranks=2))
    assert found.chosen is not None
    assert found.chosen.prediction.layout in ("u1r2", "u2r1")


@pytest.mark.slow
def test_throughput_is_replicas_and_memory_is_ranks() -> None:
    four = machine("h100-sxm", "pcie4", most_ranks=4)
    fast = plan(PAGE, four, "latency").chosen
    many = plan(PAGE, four, "throughput").chosen
    lean = plan(PAGE, four, "memory").chosen
    assert fast and many and lean
    assert fast.prediction.num_ranks == 4
    assert many.videos_per_hour >= 0.99 * max(c.videos_per_hour for c in plan(PAGE, four).choices)
    assert lean.prediction.num_ranks == 4
    assert lean.prediction.worst_memory.peak_bytes <= fast.prediction.worst_memory.peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("objective", first_quick(["latency", "throughput", "memory"]))
def test_the_chosen_is_the_best_of_those_that_fit(objective: str) -> None:
    found = plan(work(), machine("rtx4090", "pcie4", most_ranks=8), objective)  # type: ignore[arg-type]
    fits = [choice.prediction.fits for choice in found.choices]
    assert fits == sorted(fits, reverse=True)  # what does not fit comes last
    assert False in fits
    assert found.chosen in found.choices
    for choice in found.choices:
        if not choice.prediction.fits:
            assert "does not fit" in choice.reason
            assert "would with" in choice.reason
    assert sum(choice.reason.startswith("chosen") for choice in found.choices) == 1


def test_where_nothing_fits_nothing_is_chosen() -> None:
    found = plan(work(), machine("rtx4090", "pcie4", most_ranks=1))
    assert found.chosen is None
    assert found.choices[0].prediction.bound == "memory"


def test_no_gpu_is_refused() -> None:
    with pytest.raises(InvalidLayout):
        plan(work(), machine("rtx4090", "pcie4", most_ranks=0))


def test_every_card_and_link_has_a_source_and_sane_figures() -> None:
    for card in catalogue.CARDS.values():
        assert card.source
        assert 0 < card.fp32_flops <= card.tf32_flops
        assert card.memory_bytes > 2**30
        bus = catalogue.bus_of(card)
        assert bus.source and bus.bytes_per_second > 1e9
        for fraction in (card.fractions.products, card.fractions.attention, card.fractions.convolution):
            assert 0 < fraction <= 1
    for link in catalogue.LINKS.values():
        assert link.source
        assert 0 < link.latency_seconds < 1e-3
    with pytest.raises(InvalidSetting, match="h100-sxm"):
        catalogue.card("h100-sxn")
    assert catalogue.card("H100-SXM").name == "H100 SXM"
