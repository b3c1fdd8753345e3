"""What plans make of a machine's main memory: what stays in files, what that costs, and what histories may take."""

from __future__ import annotations

import msgspec
import pytest

from ringlight.core.host import LEFT_BYTES
from ringlight.planner.host_room import history_room, host_copy_bytes, network_bytes
from ringlight.planner.machine import FILE_BYTES_PER_SECOND, Machine
from ringlight.planner.memory import loaded_by_rank
from ringlight.planner.places import places
from ringlight.planner.prediction import Prediction, predict
from tests.planner.specs import REAL, layout
from tests.planner.test_placing import PAGE, within

GIB = 2**30


def with_host(gib: float, budget_gigabytes: float = 8.0) -> Machine:
    return msgspec.structs.replace(within(budget_gigabytes), host_bytes=int(gib * GIB))


def page(machine: Machine, ranks: str = "u1r1") -> Prediction:
    return predict(PAGE, layout(ranks), machine)


def test_enough_is_as_good_as_not_known() -> None:
    assert page(with_host(0)) == page(with_host(64))
    assert host_copy_bytes(REAL, with_host(64)) == loaded_by_rank(REAL, 1, with_host(0).settings)[0]


@pytest.mark.parametrize(("gib", "left"), [(24, []), (20, ["text_encoder"]), (10.5, ["text_encoder", "vae"])])
def test_what_has_no_room_is_read_from_files(gib: float, left: list[str]) -> None:
    machine = with_host(gib)
    found = page(machine)
    assert found.in_files == left
    sizes = network_bytes(REAL, machine)
    assert found.host_copy_bytes == sum(size for name, size in sizes.items() if name not in left)
    assert found.host_copy_bytes + LEFT_BYTES <= machine.host_bytes
    seconds = {stage.name: stage.bus_seconds for stage in found.stages}["TextEncoding"]
    layers = sum(REAL.text_encoder.layers.parts[1:]) * machine.settings.itemsize
    rate = FILE_BYTES_PER_SECOND if left else machine.bus.bytes_per_second
    assert seconds == pytest.approx(layers / rate)
    rows = {row.part: row for row in places(PAGE, layout("u1r1"), machine, found.plan)}
    assert rows["text encoder, layers"].place == ("files" if left else "host")
    assert ("the host has no room" in rows["text encoder, layers"].why) == bool(left)


def test_blocks_that_are_read_for_every_step_make_it_slow() -> None:
    """So that as many stay on the card as have room there."""
    slow, usual = page(with_host(8)), page(with_host(64))
    assert "transformer" in slow.in_files
    assert slow.placement is not None and usual.placement is not None
    assert slow.placement.streamed_blocks <= usual.placement.streamed_blocks
    assert slow.bus_exposed_seconds > 5 * usual.bus_exposed_seconds


def test_replicas_share_what_is_left() -> None:
    """Of one copy of the weights, and histories of their own."""
    alone = with_host(32, 5.5)
    beside = msgspec.structs.replace(alone, num_replicas=4)
    assert host_copy_bytes(REAL, beside) == host_copy_bytes(REAL, alone)
    assert history_room(REAL, 2, beside) == history_room(REAL, 2, alone) / 4
    (mine,), (its,) = page(alone).memory, page(beside).memory
    assert 0 < mine.host_bytes > history_room(REAL, 1, beside) >= its.host_bytes


@pytest.mark.parametrize("ranks", ["u1r1", "u1r2"])
@pytest.mark.parametrize("gib", [64, 26, 24])
def test_histories_take_no_more_than_is_left(gib: float, ranks: str) -> None:
    machine = with_host(gib, 5.5)
    found = page(machine, ranks)
    taken = sum(rank.host_bytes for rank in found.memory)
    assert taken <= machine.host_bytes - LEFT_BYTES - found.host_copy_bytes
    assert taken == 0 or taken <= found.num_ranks * history_room(REAL, found.num_ranks, machine)
    assert (taken > 0) == (gib == 64 or found.placement is None), "it is wanted where there is room"
