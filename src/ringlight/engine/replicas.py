"""Sources of an engine's replicas: this machine, side by side, or whoever has made them already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.core.host import cores_each
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.replicas import ReplicaRange
from ringlight.core.request import RequestLimits
from ringlight.core.stored_network import require_whole
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.machine import room_here, usable_cards
from ringlight.engine.ranked import RankedReplica
from ringlight.engine.replica import Replica


class ReplicaSource(Protocol):
    """Source of an engine's replicas."""

    def make(self, number: int) -> Replica:
        """Make the replica of this number (0, 1, ...), again after its predecessor is closed. Nothing starts yet."""
        ...

    def close(self) -> None:
        """Give up what replicas shared; they are closed."""
        ...


class LocalReplicas:
    """Replicas side by side on this machine, as an engine has found and chosen things, each on ranks of its own."""

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits,
        files: Checkpoint,
        layout: ParallelLayout,
        most: int,
        memory: HostMemory | None,
    ) -> None:
        """Prepare at most `most` replicas; `memory` holds the weights of all, if not each rank has its own.

        Raises InvalidSetting, and InvalidCheckpoint for files that are not there or not whole.
        """
        if most > 1 and config.nodes.nnodes > 1:
            raise InvalidSetting("num-replicas above 1 are for one machine; serve each group of nodes by itself")
        if (cards := usable_cards(config)) and most > 1 and most * layout.num_ranks > len(cards):
            raise InvalidSetting(
                f"num-replicas {most} of {layout.num_ranks} GPUs each need {most * layout.num_ranks}, and this machine "
                f"shows {len(cards)}; there is room for {room_here(config)}, which is what auto takes"
            )
        require_whole(files, with_weights=config.load_format != "dummy")
        # As it was found and chosen: workers that start later load the same, and warm up as they will run.
        self._config = msgspec.structs.replace(config, asked_layout=AskedLayout.of(layout))
        if most > 1 and not config.num_threads:  # they share the cores of this machine
            self._config = msgspec.structs.replace(self._config, num_threads=cores_each(most * layout.num_ranks))
        self._limits = limits
        self._num_ranks = layout.num_ranks
        self._memory = memory

    def make(self, number: int) -> Replica:
        first = number * self._num_ranks
        launcher = LocalLauncher(self._config, self._limits, self._num_ranks, first_device=first, memory=self._memory)
        return RankedReplica(self._config, launcher)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()


class GivenReplicas:
    """Replicas that somebody has made."""

    def __init__(self, *replicas: Replica) -> None:
        self._replicas = replicas

    def make(self, number: int) -> Replica:
        return self._replicas[number]

    def close(self) -> None:
        """Do nothing: the replicas share nothing that is ours."""


def sized(asked: int | ReplicaRange | None, room: Callable[[], int]) -> ReplicaRange:
    """Range of an engine's number of replicas; None asks for as many as there is `room` for. Raises InvalidSetting."""
    if asked is None:
        asked = room()
    return asked if isinstance(asked, ReplicaRange) else ReplicaRange(asked, asked)
