"""Sites: where the ranks of an engine run, what plans are made for there, and where its replicas come from."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Protocol

import msgspec

from ringlight.core.checkpoint import Checkpoint, find_checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidInstallation
from ringlight.core.installation import check_installation
from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestLimits
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.machine import room_here, this_machine
from ringlight.engine.replicas import LocalReplicas, ReplicaSource
from ringlight.families.model import ModelSpec
from ringlight.planner.machine import Machine


class Site(Protocol):
    """Machines on which the ranks of an engine run."""

    @property
    def num_nodes(self) -> int:
        """Machines that a replica is spread over."""
        ...

    def machine(self, spec: ModelSpec, num_replicas: int) -> Machine | None:
        """Hardware that each rank of so many replicas computes with; None if unknown. Raises InvalidSetting."""
        ...

    def num_sharing(self, num_replicas: int) -> int:
        """Largest number of ranks, of so many replicas, that share a machine."""
        ...

    def room(self) -> int:
        """Number of replicas that there is room for now, at least 1."""
        ...

    def source(
        self, limits: RequestLimits, files: Checkpoint, layout: ParallelLayout, most: int, is_placed: bool
    ) -> ReplicaSource:
        """Source of at most `most` replicas; `is_placed`: the ranks of a machine keep one copy of the weights.

        Raises InvalidSetting, and InvalidCheckpoint for files that are not there or not whole.
        """
        ...


def check_installed(config: EngineConfig) -> None:
    """Raise InvalidInstallation where this machine lacks what the operator's ranks need of it.

    Its own need all that workers import; those of a cluster need Ray, and nothing that computes.
    """
    if not config.cluster.is_ray:
        check_installation()
    elif find_spec("ray") is None:
        raise InvalidInstallation("--engine ray needs Ray, which is not installed; `pip install 'ringlight[ray]'`")


def site_of(config: EngineConfig) -> Site:
    """Site that the operator asks for.

    Raises InvalidSetting for a cluster that is not there.
    """
    if not config.cluster.is_ray:
        return OwnMachine(config)
    make_record = logging.getLogRecordFactory()
    from ringlight.engine.launch.ray.site import RaySite  # here, for it imports ray, which only this needs

    logging.setLogRecordFactory(make_record)  # Ray's adds a field to all that is logged in this process
    return RaySite(config)


class OwnMachine:
    """Site of ranks on this machine; with several nodes all of them are like it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    @property
    def num_nodes(self) -> int:
        return self._config.nodes.nnodes

    def machine(self, spec: ModelSpec, num_replicas: int) -> Machine | None:
        return this_machine(self._config, spec, self.num_sharing(1), num_replicas)

    def num_sharing(self, num_replicas: int) -> int:
        return num_replicas * max(1, self._config.asked_layout.num_ranks // self.num_nodes)

    def room(self) -> int:
        return room_here(self._config)

    def source(
        self, limits: RequestLimits, files: Checkpoint, layout: ParallelLayout, most: int, is_placed: bool
    ) -> ReplicaSource:
        memory = HostMemory(most * layout.num_ranks // self.num_nodes) if is_placed else None
        found = str(find_checkpoint(self._config.model_path))
        config = msgspec.structs.replace(self._config, model_path=found)
        return LocalReplicas(config, limits, files, layout, most, memory)
