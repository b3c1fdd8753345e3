"""LocalReplica: a replica whose ranks on this machine are its own processes."""

from __future__ import annotations

from ringlight.core.config import EngineConfig
from ringlight.core.request import RequestLimits
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica


class LocalReplica(RankedReplica):
    """Processes of this machine, `num_ranks` over all nodes (LocalLauncher)."""

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits,
        num_ranks: int = 1,
        *,
        first_device: int = 0,
        memory: HostMemory | None = None,
        scratch: str = "",
    ) -> None:
        launcher = LocalLauncher(config, limits, num_ranks, first_device=first_device, memory=memory, scratch=scratch)
        super().__init__(config, launcher)
