"""Where ranks go on the nodes of a cluster, by arithmetic, and what is said where they have no room."""

from __future__ import annotations

import pytest

from ringlight.engine.launch.ray.actor import Seat
from ringlight.engine.launch.ray.placement import Need, Node, Shape

H100 = "accelerator_type:H100"


def nodes(*gpus: int, free: tuple[int, ...] | None = None, **more: float) -> list[Node]:
    """Nodes of so many GPUs, 16 CPUs each."""
    return [
        Node(
            id=str(index),
            address=f"10.0.0.{index}",
            total={"GPU": float(count), "CPU": 16.0, **more},
            free={"GPU": float(count if free is None else free[index]), "CPU": 8.0},
        )
        for index, count in enumerate(gpus)
    ]


def need(num_ranks: int, **more: float) -> Need:
    return Need(num_ranks, {"GPU": 1.0, "CPU": 1.0, **more})


@pytest.mark.parametrize(
    ("num_ranks", "there", "shape"),
    [
        (1, (8,), Shape(1, 1)),
        (8, (4, 8, 8), Shape(1, 8)),  # one node, if any can
        (8, (4, 4), Shape(2, 4)),
        (8, (7, 7), Shape(2, 4)),
        (6, (4, 2, 2), Shape(3, 2)),  # and not 4 and 2
        (12, (8, 8), Shape(2, 6)),
        (7, (4, 4), None),
        (2, (1,), None),
        (1, (0, 0), None),
        (17, (32,), None),  # CPUs are wanted too
    ],
)
def test_the_fewest_nodes_that_can_have_equal_shares(
    num_ranks: int, there: tuple[int, ...], shape: Shape | None
) -> None:
    assert need(num_ranks).shape(nodes(*there)) == shape


def test_what_is_busy_is_waited_for() -> None:
    assert need(4).shape(nodes(4, 2, free=(0, 2))) == Shape(1, 4)


def test_other_resources_choose_nodes() -> None:
    assert need(2, **{H100: 0.001}).shape(nodes(8)) is None
    assert need(2, **{H100: 0.001}).shape(nodes(8, **{H100: 1.0})) == Shape(1, 2)
    assert need(2, **{H100: 0.25}).bundles(Shape(2, 4))[1] == {"GPU": 4.0, "CPU": 4.0, H100: 1.0}


@pytest.mark.parametrize(
    ("num_ranks", "shape", "free", "replicas"),
    [
        (2, Shape(1, 2), (8, 3, 1), 5),
        (8, Shape(2, 4), (8, 8), 2),
        (8, Shape(2, 4), (8, 4, 4), 2),
        (6, Shape(3, 2), (4, 4), 0),
        (4, Shape(1, 4), (), 0),
    ],
)
def test_how_many_replicas_there_is_room_for(
    num_ranks: int, shape: Shape, free: tuple[int, ...], replicas: int
) -> None:
    assert need(num_ranks).replicas([{"GPU": float(count), "CPU": 16.0} for count in free], shape) == replicas


def test_what_is_said_where_there_is_no_room() -> None:
    busy = nodes(4, 4, free=(1, 0))
    said = need(8).lacking(busy, Shape(2, 4), may_grow=False)
    assert said == (
        "the cluster has no room for 8 ranks on 2 nodes with 1 GPU and 1 CPU each; free: 1 GPU and 8 CPU on 10.0.0.0; "
        "0 GPU and 8 CPU on 10.0.0.1. It does not grow by itself: add a node, or end what has them"
    )
    assert (
        need(8)
        .lacking(busy, Shape(2, 4), may_grow=True)
        .endswith("The cluster may grow: its autoscaler is asked for it")
    )
    assert "free: no node" in need(1).lacking([], None, may_grow=True)


def test_shares_that_cannot_be_equal_are_said_to_be() -> None:
    said = need(7).lacking(nodes(4, 4), None, may_grow=False)
    assert "Each node has equally many ranks, and these have room for 4, 4: ask for a number that goes evenly" in said


def test_ranks_are_ordered_by_node_and_card() -> None:
    seats = [
        Seat(node, address, (card,), pid, "", "")
        for pid, (node, address, card) in enumerate(
            [("b", "10.0.0.2", "10"), ("a", "10.0.0.1", "3"), ("b", "10.0.0.2", "9"), ("a", "10.0.0.1", "GPU-1f")]
        )
    ]
    assert [seat.devices[0] for seat in sorted(seats, key=lambda seat: seat.order)] == ["GPU-1f", "3", "9", "10"]
