"""Replicas side by side on this machine, as an engine has found and chosen things."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.core.host import cores_each
from ringlight.core.installation import check_installation
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.request import RequestLimits
from ringlight.core.stored_network import require_whole
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.local import LocalReplica
from ringlight.engine.replica import Replica


def side_by_side(
    config: EngineConfig,
    limits: RequestLimits,
    files: Checkpoint,
    layout: ParallelLayout,
    number: int,
    memory: HostMemory | None,
) -> Sequence[Replica]:
    """So many, each on ranks of its own; `memory` has the weights of all, if not each rank has its own. Nothing starts.

    Raises InvalidSetting, InvalidInstallation, and InvalidCheckpoint for files that are not there or not whole.
    """
    check_installation()
    if number > 1 and config.nodes.nnodes > 1:
        raise InvalidSetting("num-replicas above 1 are for one machine; serve each group of nodes by itself")
    require_whole(files, with_weights=config.load_format != "dummy")
    # As it was found and chosen: workers that start later load the same, and warm up as they will run.
    config = msgspec.structs.replace(config, asked_layout=AskedLayout.of(layout))
    if number > 1 and not config.num_threads:  # they share the cores of this machine
        config = msgspec.structs.replace(config, num_threads=cores_each(number * layout.num_ranks))
    return [
        LocalReplica(config, limits, layout.num_ranks, first_device=index * layout.num_ranks, memory=memory)
        for index in range(number)
    ]
