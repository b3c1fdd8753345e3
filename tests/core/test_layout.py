"""Layouts: their names, what is asked of them, which one is chosen and why, and what one request uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
import pytest

from ringlight.core.errors import InvalidLayout
from ringlight.core.layout import AskedLayout, LayoutChoice, ParallelLayout, decide, layout_for
from ringlight.parallel.mesh import coordinates

HEADS = 24


@pytest.mark.parametrize(
    ("degrees", "name", "num_ranks"),
    [
        ({}, "u1r1", 1),
        ({"ring": 2}, "u1r2", 2),
        ({"ulysses": 4}, "u4r1", 4),
        ({"ulysses": 2, "ring": 4}, "u2r4", 8),
        ({"cfg": 2}, "c2u1r1", 2),
        ({"cfg": 2, "ulysses": 3, "ring": 5}, "c2u3r5", 30),
    ],
)
def test_names_are_the_fields(degrees: dict[str, int], name: str, num_ranks: int) -> None:
    layout = ParallelLayout(**degrees)
    assert (layout.name, layout.num_ranks, layout.sp) == (name, num_ranks, num_ranks // layout.cfg)
    assert ParallelLayout.parse(name) == layout


def test_a_name_may_say_that_there_is_one_branch() -> None:
    assert ParallelLayout.parse("c1u12r10") == ParallelLayout(ulysses=12, ring=10)


@pytest.mark.parametrize(
    "name",
    ["", "u2", "r2", "r2u2", "u2r2c2", "C2u1r1", "c2u1r1 ", "u1r1\n", "u-1r1", "u1.5r1", "u٣r1", "u1r" + "9" * 5000],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidLayout, match=r"c2u2r1.*u2r1") as caught:
        ParallelLayout.parse(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("degrees", "named"),
    [({"cfg": 0}, "cfg-degree"), ({"cfg": 3}, "cfg-degree"), ({"ulysses": 0}, "ulysses"), ({"ring": -1}, "ring")],
)
def test_impossible_degrees_are_refused(degrees: dict[str, int], named: str) -> None:
    with pytest.raises(InvalidLayout, match=named):
        ParallelLayout(**degrees)


@pytest.mark.parametrize(("name", "named"), [("c3u1r1", "cfg-degree"), ("u0r1", "ulysses-degree")])
def test_names_of_impossible_degrees_are_refused(name: str, named: str) -> None:
    with pytest.raises(InvalidLayout, match=named):
        ParallelLayout.parse(name)


def choose(num_heads: int = HEADS, guidance: bool = True, num_nodes: int = 1, **asked: int) -> LayoutChoice:
    return decide(AskedLayout(**asked), num_heads=num_heads, guidance=guidance, num_nodes=num_nodes)


@pytest.mark.parametrize(
    ("num_gpus", "num_nodes", "with_guidance", "without"),
    [
        (1, 1, "u1r1", "u1r1"),
        (2, 1, "c2u1r1", "u2r1"),
        (3, 1, "u3r1", "u3r1"),  # an odd number is not two equal branches
        (4, 1, "c2u2r1", "u4r1"),
        (5, 1, "u1r5", "u1r5"),  # 24 heads do not divide by 5
        (6, 1, "c2u3r1", "u6r1"),
        (8, 1, "c2u4r1", "u8r1"),
        (9, 1, "u3r3", "u3r3"),
        (10, 1, "c2u1r5", "u2r5"),
        (16, 1, "c2u8r1", "u8r2"),  # nor by 16
        (2, 2, "c2u1r1", "u1r2"),
        (4, 2, "c2u2r1", "u2r2"),
        (16, 2, "c2u8r1", "u8r2"),
        (8, 4, "c2u2r2", "u2r4"),
        (6, 3, "c2u1r3", "u2r3"),  # the middle node hosts a rank of each branch
        (3, 3, "u1r3", "u1r3"),
    ],
)
def test_a_number_of_ranks_is_enough(num_gpus: int, num_nodes: int, with_guidance: str, without: str) -> None:
    assert choose(num_gpus=num_gpus, num_nodes=num_nodes).layout.name == with_guidance
    assert choose(num_gpus=num_gpus, num_nodes=num_nodes, guidance=False).layout.name == without


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "u1r1"),
        ({"cfg_degree": 2}, "c2u1r1"),
        ({"sp_degree": 4}, "u4r1"),
        ({"sp_degree": 5}, "u1r5"),
        ({"ulysses_degree": 5}, "u5r1"),
        ({"ring_degree": 3}, "u1r3"),
        ({"ulysses_degree": 2, "ring_degree": 3}, "u2r3"),
        ({"cfg_degree": 2, "ulysses_degree": 2}, "c2u2r1"),
        ({"sp_degree": 6, "ulysses_degree": 2}, "u2r3"),
        ({"sp_degree": 6, "ring_degree": 2}, "u3r2"),
        ({"num_gpus": 4, "cfg_degree": 1}, "u4r1"),
        ({"num_gpus": 4, "sp_degree": 4}, "u4r1"),
        ({"num_gpus": 4, "sp_degree": 2}, "c2u2r1"),
        ({"num_gpus": 4, "ulysses_degree": 1}, "c2u1r2"),
        ({"num_gpus": 4, "ulysses_degree": 2}, "c2u2r1"),
        ({"num_gpus": 4, "ulysses_degree": 4}, "u4r1"),
        ({"num_gpus": 4, "ring_degree": 4}, "u1r4"),
        ({"num_gpus": 5, "ring_degree": 1}, "u5r1"),
        ({"num_gpus": 8, "ring_degree": 2}, "c2u2r2"),
        ({"num_gpus": 8, "cfg_degree": 1, "ring_degree": 2}, "u4r2"),
        ({"num_gpus": 8, "sp_degree": 4, "ulysses_degree": 2, "ring_degree": 2, "cfg_degree": 2}, "c2u2r2"),
    ],
    ids=str,
)
def test_what_is_left_out_follows_from_the_rest(asked: dict[str, int], name: str) -> None:
    assert choose(**asked).layout.name == name


def test_two_branches_may_be_asked_for_without_guidance() -> None:
    assert choose(num_gpus=4, cfg_degree=2, guidance=False).layout.name == "c2u2r1"
    assert choose(num_gpus=4, sp_degree=2, guidance=False).layout.name == "c2u2r1"  # there is no other way


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "u1r1: one rank has nothing to split"),
        ({"num_gpus": 2}, "c2u1r1: guidance needs two branches, which never talk within a step"),
        ({"num_gpus": 3}, "u3r1: 3 ranks are not two equal branches; all Ulysses, which never sends more than a ring"),
        (
            {"num_gpus": 2, "guidance": False},
            "u2r1: without guidance there is one branch; all Ulysses, which never sends",
        ),
        ({"num_gpus": 2, "ring_degree": 2}, "u1r2: as asked, nothing was left to choose"),
        ({"num_gpus": 2, "sp_degree": 1, "cfg_degree": 2}, "c2u1r1: as asked, nothing was left to choose"),
        ({"sp_degree": 5}, "u1r5: 5 ranks are not two equal branches; 24 heads do not divide evenly by 5, so a ring"),
        ({"num_gpus": 9, "cfg_degree": 1}, "u3r3: 24 heads do not divide evenly by 9, so a ring takes the rest"),
        ({"num_gpus": 29, "cfg_degree": 1}, "u1r29: 24 heads do not divide evenly by 29, so a ring takes it all"),
        ({"sp_degree": 2, "num_nodes": 2}, "u1r2: a ring goes across nodes"),
        ({"sp_degree": 4, "num_nodes": 2}, "u2r2: Ulysses stays inside a node and a ring goes across nodes"),
    ],
    ids=str,
)
def test_the_reason_is_one_sentence_that_begins_with_the_name(asked: dict[str, Any], reason: str) -> None:
    choice = choose(**asked)
    assert choice.reason.startswith(reason)
    assert "\n" not in choice.reason


CONTRADICTIONS = {
    "num-gpus must be at least 1, not 0": {"num_gpus": 0},
    "sp-degree must be at least 1, not 0": {"sp_degree": 0},
    "ulysses-degree must be at least 1, not -2": {"ulysses_degree": -2},
    "ring-degree must be at least 1, not 0": {"ring_degree": 0},
    "cfg-degree must be 1 or 2 (there are two guidance branches), not 0": {"cfg_degree": 0},
    "cfg-degree must be 1 or 2 (there are two guidance branches), not 3": {"cfg_degree": 3},
    "sp-degree 4 is not ulysses-degree 2 x ring-degree 1; leave one of them out, or use --ring-degree 2": {
        "sp_degree": 4,
        "ulysses_degree": 2,
        "ring_degree": 1,
    },
    "sp-degree 4 is not ulysses-degree 3 x ring-degree 2; leave one of them out, or use --sp-degree 6": {
        "sp_degree": 4,
        "ulysses_degree": 3,
        "ring_degree": 2,
    },
    "sp-degree 7 is not a multiple of ulysses-degree 3; leave one of them out, or use --sp-degree 6": {
        "sp_degree": 7,
        "ulysses_degree": 3,
    },
    "sp-degree 2 is not a multiple of ring-degree 3; leave one of them out, or use --sp-degree 3": {
        "sp_degree": 2,
        "ring_degree": 3,
    },
    "num-gpus 3 is not cfg-degree 2 x sp-degree 2; leave one of them out, or use --num-gpus 4": {
        "num_gpus": 3,
        "cfg_degree": 2,
        "sp_degree": 2,
    },
    "num-gpus 6 is not cfg-degree 2 x ulysses-degree 1 x ring-degree 2; "
    "leave one of them out, or use --ring-degree 3": {
        "num_gpus": 6,
        "cfg_degree": 2,
        "ulysses_degree": 1,
        "ring_degree": 2,
    },
    "num-gpus 3 is not a multiple of cfg-degree 2; leave one of them out, or use --num-gpus 2": {
        "num_gpus": 3,
        "cfg_degree": 2,
    },
    "num-gpus 6 is not a multiple of cfg-degree 2 x ring-degree 2; leave one of them out, or use --num-gpus 4": {
        "num_gpus": 6,
        "cfg_degree": 2,
        "ring_degree": 2,
    },
    "num-gpus 3 is not a multiple of ulysses-degree 2; leave one of them out, or use --num-gpus 2": {
        "num_gpus": 3,
        "ulysses_degree": 2,
    },
    "num-gpus 1 is not 1 or 2 guidance branches x sp-degree 2; leave one of them out, or use --num-gpus 2 or 4": {
        "num_gpus": 1,
        "sp_degree": 2,
    },
    "num-gpus 8 is not 1 or 2 guidance branches x sp-degree 2; leave one of them out, or use --num-gpus 2 or 4": {
        "num_gpus": 8,
        "sp_degree": 2,
    },
    "num-gpus 3 is not 1 or 2 guidance branches x ulysses-degree 1 x ring-degree 1; "
    "leave one of them out, or use --num-gpus 1 or 2": {"num_gpus": 3, "ulysses_degree": 1, "ring_degree": 1},
}


@pytest.mark.parametrize(("line", "asked"), CONTRADICTIONS.items(), ids=lambda value: str(value)[:40])
def test_contradictions_name_the_flags_and_a_remedy(line: str, asked: dict[str, int]) -> None:
    with pytest.raises(InvalidLayout) as caught:
        AskedLayout(**asked)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        (
            "ulysses-degree 32 is more than the 24 heads of the model; use --ring-degree for the rest",
            {"ulysses_degree": 32},
        ),
        (
            "ring-degree 1 leaves more Ulysses ranks than the 24 heads of the model; leave --ring-degree out",
            {"sp_degree": 32, "ring_degree": 1},
        ),
        (
            "ring-degree 1 leaves more Ulysses ranks than the 24 heads of the model; leave --ring-degree out",
            {"num_gpus": 50, "ring_degree": 1},
        ),
        (
            "num-gpus 3 is not a multiple of nnodes 2; use --num-gpus 2 and degrees that make it",
            {"num_gpus": 3, "num_nodes": 2},
        ),
        (
            "num-gpus is left out and follows as 1, which is not a multiple of nnodes 4; "
            "use --num-gpus 4 and degrees that make it",
            {"num_nodes": 4},
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_model_and_nodes_cannot_do(line: str, asked: dict[str, int]) -> None:
    with pytest.raises(InvalidLayout) as caught:
        choose(**asked)
    assert str(caught.value) == line


def asks() -> Iterator[dict[str, int]]:
    """Every combination of small degrees, each given or left out."""
    small = (None, 1, 2, 3, 4)
    fields = AskedLayout.__struct_fields__
    for degrees in product((None, *range(1, 9)), small, small, small, (None, 1, 2)):
        yield {field: degree for field, degree in zip(fields, degrees, strict=True) if degree is not None}


def obeys(layout: ParallelLayout, asked: dict[str, int]) -> bool:
    has = {
        "num_gpus": layout.cfg * layout.ulysses * layout.ring,
        "sp_degree": layout.ulysses * layout.ring,
        "ulysses_degree": layout.ulysses,
        "ring_degree": layout.ring,
        "cfg_degree": layout.cfg,
    }
    return all(has[field] == degree for field, degree in asked.items())


LAYOUTS = [ParallelLayout(cfg=c, ulysses=u, ring=r) for c, u, r in product((1, 2), range(1, 9), range(1, 9))]


@pytest.mark.slow
def test_whatever_can_be_obeyed_is_obeyed_and_nothing_else_is_refused() -> None:
    num_refused = 0
    for asked in asks():
        try:
            layouts = [choose(**asked, guidance=guidance, num_heads=8).layout for guidance in (False, True)]
        except InvalidLayout:
            num_refused += 1
            assert not any(obeys(layout, asked) for layout in LAYOUTS), asked
        else:
            assert all(obeys(layout, asked) for layout in layouts), (asked, layouts)
    assert num_refused > 1000


def follow_remedy(asked: dict[str, int]) -> dict[str, int]:
    """What is asked after the first remedy of its refusal; the same if it is not refused."""
    try:
        AskedLayout(**asked)
    except InvalidLayout as error:
        flag, degree = re.findall(r"use --([a-z-]+) (\d+)", str(error))[0]
        return asked | {flag.replace("-", "_"): int(degree)}
    return asked


def test_whoever_follows_the_remedies_arrives() -> None:
    for asked in asks():
        AskedLayout(**follow_remedy(follow_remedy(asked)))


MACHINES = [
    (num_gpus, num_nodes, num_heads)
    for num_gpus, num_nodes, num_heads in product(range(1, 17), (1, 2, 4), (4, 12, 24, 40))
    if num_gpus % num_nodes == 0
]


def lies_in_one_node(layout: ParallelLayout, ranks_per_node: int) -> bool:
    """Whether every Ulysses group lies in one node, by the places that ranks have on a mesh."""
    nodes: dict[tuple[int, int], set[int]] = {}
    for rank in range(layout.num_ranks):
        branch, ring, _ = coordinates(rank, layout)
        nodes.setdefault((branch, ring), set()).add(rank // ranks_per_node)
    return all(len(group) == 1 for group in nodes.values())


@pytest.mark.parametrize("guidance", [False, True])
def test_the_chosen_layout_uses_all_ranks_and_is_the_best_by_the_rule(guidance: bool) -> None:
    for num_gpus, num_nodes, num_heads in MACHINES:
        layout = choose(num_gpus=num_gpus, num_nodes=num_nodes, num_heads=num_heads, guidance=guidance).layout
        ranks_per_node = num_gpus // num_nodes
        assert layout.num_ranks == num_gpus
        assert layout.ulysses <= num_heads
        assert layout.cfg == (2 if guidance and num_gpus % 2 == 0 else 1)
        good = [
            ulysses
            for ulysses in range(1, num_heads + 1)
            if layout.sp % ulysses == 0
            and num_heads % ulysses == 0
            and lies_in_one_node(
                ParallelLayout(cfg=layout.cfg, ulysses=ulysses, ring=layout.sp // ulysses), ranks_per_node
            )
        ]
        assert layout.ulysses == max(good), (num_gpus, num_nodes, num_heads)


def test_branches_lie_on_different_nodes_where_their_number_is_even() -> None:
    for num_gpus, num_nodes, num_heads in MACHINES:
        if num_nodes % 2 == 0:
            layout = choose(num_gpus=num_gpus, num_nodes=num_nodes, num_heads=num_heads).layout
            nodes: tuple[set[int], set[int]] = (set(), set())
            for rank in range(num_gpus):
                nodes[coordinates(rank, layout)[0]].add(rank // (num_gpus // num_nodes))
            assert not nodes[0] & nodes[1]


@pytest.mark.parametrize(
    ("name", "ranks_per_node", "num_heads", "without_guidance"),
    [
        ("u1r1", 1, 24, "u1r1"),
        ("u4r1", 4, 24, "u4r1"),
        ("u1r5", 5, 24, "u1r5"),
        ("c2u1r1", 2, 24, "u2r1"),
        ("c2u1r1", 1, 24, "u1r2"),  # a branch on each of two nodes
        ("c2u2r2", 8, 24, "u4r2"),
        ("c2u2r2", 4, 24, "u4r2"),
        ("c2u2r2", 2, 24, "u2r4"),
        ("c2u4r1", 8, 4, "u4r2"),  # no more heads
        ("c2u8r1", 16, 24, "u8r2"),  # 24 heads do not divide by 16
        ("c2u5r1", 10, 24, "u5r2"),  # asked for, but no reason to make it worse
        ("c2u1r3", 2, 24, "u2r3"),
    ],
)
def test_without_guidance_the_second_branch_joins_the_first(
    name: str, ranks_per_node: int, num_heads: int, without_guidance: str
) -> None:
    layout = ParallelLayout.parse(name)
    assert layout_for(layout, True, num_heads, ranks_per_node) == layout
    assert layout_for(layout, False, num_heads, ranks_per_node).name == without_guidance


def test_no_rank_idles_for_any_request() -> None:
    for num_gpus, num_nodes, num_heads in MACHINES:
        ranks_per_node = num_gpus // num_nodes
        layout = choose(num_gpus=num_gpus, num_nodes=num_nodes, num_heads=num_heads).layout
        folded = layout_for(layout, False, num_heads, ranks_per_node)
        assert (folded.cfg, folded.num_ranks) == (1, num_gpus)
        assert num_heads % folded.ulysses == 0
        assert lies_in_one_node(folded, ranks_per_node)


def test_what_was_asked_and_what_is_chosen_travel() -> None:
    asked = AskedLayout(num_gpus=4, ring_degree=2)
    choice = decide(asked, num_heads=HEADS, guidance=True, num_nodes=1)
    assert msgspec.json.decode(msgspec.json.encode(asked), type=AskedLayout) == asked
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(choice), type=LayoutChoice) == choice
