"""What a node tells of its cards, in the place of a machine that has none: plans are made for them."""

from __future__ import annotations

import msgspec
import pytest

from ringlight import EngineConfig
from ringlight.engine.driver import DriverCard
from ringlight.engine.launch.ray.cluster import describe
from ringlight.engine.machine import Host, machine_of
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from tests.engine.cards import install

CARD = DriverCard(
    name="NVIDIA H100 80GB HBM3",
    uuid="GPU-1",
    memory_bytes=80 * 2**30,
    pcie=(5, 16),
    has_nvlink=True,
    has_peer_access=True,
)


def told(config: EngineConfig, num_cards: int) -> Host:
    return msgspec.json.decode(describe(msgspec.json.encode(config), num_cards), type=Host)


@pytest.mark.parametrize(("num_cards", "num_told"), [(8, 8), (4, 4), (0, 0)])
def test_a_node_tells_of_the_cards_that_ray_gives_away(
    monkeypatch: pytest.MonkeyPatch, num_cards: int, num_told: int
) -> None:
    """And hides from whoever has asked for none."""
    install([CARD] * 8, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert told(EngineConfig(model_path="anywhere", device="cuda"), num_cards).cards == [CARD] * num_told
    assert told(EngineConfig(model_path="anywhere", device="cpu"), num_cards).cards == []


def test_plans_are_of_the_nodes_cards() -> None:
    """Two replicas of 4 on each of two nodes: as many ranks as there could be are those of both."""
    host = Host(cards=[CARD] * 8, num_cores=64, memory_bytes=2**40)
    config = EngineConfig(model_path="anywhere", device="cuda")
    machine = machine_of(host, config, WAN22_TI2V_5B, num_local=4, num_replicas=2, num_nodes=2)
    assert machine is not None
    assert (machine.card.memory_bytes, machine.most_ranks, machine.num_replicas) == (CARD.memory_bytes, 8, 2)
    assert "NVLink" in machine.basis
