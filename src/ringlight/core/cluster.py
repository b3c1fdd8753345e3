"""ClusterConfig: who starts the ranks of a replica, this engine on its own machine or Ray on the nodes of a cluster."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import msgspec

from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import LAYOUT, setting
from ringlight.core.plain import plain

EngineName = Literal["local", "ray"]
OURS = ("CPU", "GPU")  # of what Ray counts


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Source of ranks: processes of this machine, or actors of a Ray cluster.

    With "ray" each rank is an actor with a GPU of its own, or on a cluster without any with as many CPUs as it has
    threads.

    `ray_address` is that of the cluster's head; auto is that of RAY_ADDRESS, or of the cluster that this machine
    belongs to. `ray_resources` is a JSON object of what each rank needs beside that, as Ray counts it. A replica for
    which there has been no room for `placement_timeout` seconds says so and is tried again. Raises InvalidSetting.
    """

    engine: Annotated[
        EngineName, setting("Who starts ranks: local, on this machine; ray, on the nodes of a Ray cluster.", LAYOUT)
    ] = "local"
    ray_address: Annotated[
        str,
        setting("Head of the cluster; auto: RAY_ADDRESS, else the one that this machine belongs to.", LAYOUT),
    ] = "auto"
    ray_resources: Annotated[
        str,
        setting(
            'What else each rank needs of its node, as Ray counts it, such as {"accelerator_type:H100": 0.001}.',
            LAYOUT,
            metavar="JSON",
        ),
    ] = ""
    placement_timeout: Annotated[
        float,
        setting("Seconds that a replica waits for room before it says that there is none.", LAYOUT),
    ] = 60.0

    def __post_init__(self) -> None:
        if self.ray_address.startswith("ray://"):
            raise InvalidSetting(
                f"ray-address {self.ray_address} is of Ray Client, over which ranks cannot be heard: a raylet must run "
                "on this machine; start one with `ray start --address HEAD:6379`, and leave --ray-address out"
            )
        if not 0 < self.placement_timeout < math.inf:
            raise InvalidSetting(
                f"placement-timeout must be a number of seconds above 0, not {plain(self.placement_timeout)}"
            )
        _ = self.resources

    @property
    def is_ray(self) -> bool:
        """Whether ranks are Ray's to place."""
        return self.engine == "ray"

    @property
    def resources(self) -> dict[str, float]:
        """Resources of each rank beside its device, by Ray's names. Raises InvalidSetting."""
        try:
            found: Any = json.loads(self.ray_resources or "{}")
        except (ValueError, RecursionError) as error:
            raise InvalidSetting(f"ray-resources {self.ray_resources!r} is not JSON: {error}") from None
        if not isinstance(found, dict) or not all(_is_amount(amount) for amount in found.values()):
            raise InvalidSetting(
                f"ray-resources {self.ray_resources!r} must map names of resources to numbers above 0, such as "
                '{"accelerator_type:H100": 0.001}'
            )
        if taken := [name for name in OURS if name in found]:
            raise InvalidSetting(
                f"ray-resources: {taken[0]} is what a rank has anyhow: a GPU, or as many CPUs as --num-threads says"
            )
        return {name: float(amount) for name, amount in found.items()}


def _is_amount(amount: object) -> bool:
    return isinstance(amount, int | float) and not isinstance(amount, bool) and 0 < amount < math.inf
