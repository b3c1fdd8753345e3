"""What an operator says of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from ringlight import EngineConfig, NodesConfig
from ringlight.core.cluster import ClusterConfig
from ringlight.core.errors import InvalidSetting

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ray_address": "ray://head:10001"}, r"Ray Client.*a raylet must run on this machine.*ray start --address"),
    ({"ray_resources": "H100"}, "is not JSON"),
    ({"ray_resources": "[1]"}, "must map names of resources to numbers above 0"),
    ({"ray_resources": '{"a": 0}'}, "numbers above 0"),
    ({"ray_resources": '{"a": true}'}, "numbers above 0"),
    ({"ray_resources": '{"GPU": 2}'}, "GPU is what a rank has anyhow"),
    ({"placement_timeout": 0}, "placement-timeout must be a number of seconds above 0, not 0"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_cannot_be_meant(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        ClusterConfig(**given)


def test_resources_are_numbers_by_name() -> None:
    config = ClusterConfig(engine="ray", ray_resources='{"accelerator_type:H100": 0.001, "memory": 1000}')
    assert config.resources == {"accelerator_type:H100": 0.001, "memory": 1000.0}
    assert config.is_ray and not ClusterConfig().is_ray and ClusterConfig().resources == {}


def test_nodes_are_either_rays_or_the_operators() -> None:
    nodes = NodesConfig(nnodes=2, dist_init_addr="10.0.0.1:29500")
    with pytest.raises(InvalidSetting, match="with --engine ray it runs once"):
        EngineConfig(model_path="anywhere", nodes=nodes, cluster=ClusterConfig(engine="ray"))
