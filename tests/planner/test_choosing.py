"""The layout of an engine, chosen by what is predicted on its machine."""

from __future__ import annotations

import msgspec
import pytest

from ringlight.core.errors import InvalidLayout
from ringlight.core.layout import AskedLayout, ParallelLayout, decide
from ringlight.planner import catalogue
from ringlight.planner.choosing import ALIKE, choose
from ringlight.planner.hardware import Hardware
from ringlight.planner.machine import Machine
from ringlight.planner.planner import layouts
from ringlight.planner.prediction import predict
from tests.planner.specs import REAL, work

FILM = work()


def machine(card: str = "h100-sxm", link: str = "nvlink4", **changes: int) -> Machine:
    found = msgspec.structs.replace(catalogue.card(card), **changes)
    hardware = Hardware(card=found, link=catalogue.link(link))
    return Machine(hardware=hardware, basis=f"{found.name}, {link}", most_ranks=8)


@pytest.mark.parametrize("link", ["nvlink4", "pcie4", "ethernet10"])
@pytest.mark.parametrize("num_gpus", [2, 4, 6, 8])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_none_with_as_many_ranks_is_predicted_to_be_faster(num_gpus: int, link: str, guidance: float) -> None:
    film = work(guidance_scale=guidance)
    here = machine(link=link)
    chosen = choose(film, AskedLayout(num_gpus=num_gpus), here).layout
    taken = predict(film, chosen, here).total_seconds
    others = [layout for layout in layouts(REAL, num_gpus, guidance > 1) if layout.num_ranks == num_gpus]
    assert chosen.num_ranks == num_gpus and len(others) > 1
    assert taken <= (1 + ALIKE) * min(predict(film, layout, here).total_seconds for layout in others)


def test_equals_are_left_to_the_rule_and_its_reason_is_told() -> None:
    asked = AskedLayout(num_gpus=2)
    rule = decide(asked, num_heads=24, guidance=True, num_nodes=1)
    choice = choose(FILM, asked, machine())
    assert choice.layout == rule.layout
    assert choice.reason.startswith(f"{rule.reason}; predicted ") and "(u" in choice.reason


def test_the_plan_overrules_the_rule_where_it_says_otherwise() -> None:
    """The rule knows nothing of how much of a ring's transfers lies under computation."""
    asked = AskedLayout(num_gpus=2, cfg_degree=1)
    slow = machine(link="ethernet10")
    found = {name: predict(FILM, ParallelLayout.parse(name), slow).total_seconds for name in ("u2r1", "u1r2")}
    best = min(found, key=lambda name: found[name])
    choice = choose(FILM, asked, slow)
    assert choice.layout.name == best or max(found.values()) <= (1 + ALIKE) * min(found.values())
    assert f"{found[choice.layout.name]:.3g} s" in choice.reason


def test_what_does_not_fit_is_not_chosen() -> None:
    """Two branches side by side hold a whole sequence each; halves of one need less."""
    asked, names = AskedLayout(num_gpus=2), ("c2u1r1", "u2r1", "u1r2")
    here = machine(link="pcie4")
    needs = {name: predict(FILM, ParallelLayout.parse(name), here).worst_memory.peak_bytes for name in names}
    least = min(needs, key=lambda name: needs[name])
    context = here.hardware.card.context_bytes
    tight = machine(link="pcie4", memory_bytes=needs[least] + context + 2**20)
    assert choose(FILM, asked, tight).layout.name == least


@pytest.mark.parametrize("here", [None, machine()])
def test_several_nodes_and_unknown_machines_go_by_the_rule(here: Machine | None) -> None:
    asked = AskedLayout(num_gpus=8)
    nodes = 1 if here is None else 2
    assert choose(FILM, asked, here, nodes) == decide(asked, num_heads=24, guidance=True, num_nodes=nodes)


def test_what_is_asked_for_stays() -> None:
    asked = AskedLayout(num_gpus=8, ring_degree=4)
    assert choose(FILM, asked, machine()).layout.ring == 4
    with pytest.raises(InvalidLayout):
        choose(FILM, AskedLayout(ulysses_degree=25), machine())
