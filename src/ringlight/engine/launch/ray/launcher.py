"""RayLauncher: the ranks of one replica as actors: a placement group, an actor a rank, and a door that they come to."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import WorkerError
from ringlight.core.request import RequestLimits
from ringlight.engine.launch.launcher import Start
from ringlight.engine.launch.ray.actor import RankActor, Seat
from ringlight.engine.launch.ray.cluster import RayCluster
from ringlight.engine.launch.ray.door import RankDoor
from ringlight.engine.launch.ray.placement import Need, Shape
from ringlight.engine.launch.ray.process import RayProcess
from ringlight.engine.rank import RankHandle

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
ROUND_SECONDS = 2.0  # between two looks at what nodes there are


class RayLauncher:
    """Starts `need.num_ranks` ranks on the nodes of a cluster, all of them anew each time.

    Owned by this process: with it they end. With `is_placed` the ranks of a node keep one copy of the weights there.
    """

    def __init__(
        self, config: EngineConfig, limits: RequestLimits, cluster: RayCluster, need: Need, is_placed: bool
    ) -> None:
        self._config = config
        self._limits = limits
        self._cluster = cluster
        self._need = need
        self._is_placed = is_placed
        self._lock = threading.Lock()  # guards what follows
        self._group: PlacementGroup | None = None
        self._actors: list[Any] = []

    def launch(self, start: Start) -> list[RankHandle]:
        try:
            shape = self._place(start)
            start.waiting.say(f"processes for {self._need.told(shape)}")
            with contextlib.closing(self._open_door()) as door:
                actors = self._take_seats(door, shape, start)
                ranks = self._connect(door, actors, shape, start)
                if door.num_refused:
                    logger.warning("%d connections to the ranks' door were refused", door.num_refused)
        except RayError as error:
            self.end()
            raise WorkerError(f"Ray does not start the ranks: {' '.join(str(error).split())}") from None
        except BaseException:
            self.end()
            raise
        start.waiting.end()
        return ranks

    def end(self) -> None:
        with self._lock:
            actors, self._actors = self._actors, []
            group, self._group = self._group, None
        with contextlib.suppress(RayError):  # the cluster is gone, and all of it
            for actor in actors:
                ray.kill(actor)
            if group is not None:
                remove_placement_group(group)

    def _place(self, start: Start) -> Shape:
        """Reserve room. Raises WorkerError, which says what is missing, where there has been none for too long."""
        since, looked_at, shape = time.monotonic(), -math.inf, None
        lacking, group = "", None
        while group is None or not group.wait(LOOK_SECONDS):
            start.pause(0.0)
            now = time.monotonic()
            if now - since > self._config.cluster.placement_timeout:
                raise WorkerError(lacking)
            if now - looked_at > ROUND_SECONDS:
                nodes, looked_at = self._cluster.nodes(), now
                found = self._need.shape(nodes)
                lacking = self._need.lacking(nodes, found, self._cluster.may_grow())
                wanted = found or Shape(1, self._need.num_ranks)  # what an autoscaler is asked for
                if wanted != shape:
                    self.end()
                    shape, group = wanted, self._reserve(wanted)
                    continue
            if now - since > ROUND_SECONDS:
                start.waiting.say("room in the cluster", lacking)
        assert shape is not None
        return shape

    def _reserve(self, shape: Shape) -> PlacementGroup:
        strategy = "STRICT_PACK" if shape.num_nodes == 1 else "STRICT_SPREAD"
        with self._lock:
            self._group = placement_group(self._need.bundles(shape), strategy)
            return self._group

    def _open_door(self) -> RankDoor:
        address = self._cluster.own_address
        try:
            return RankDoor(address, self._need.num_ranks, self._config.watchdog_timeout)
        except OSError as error:
            raise WorkerError(f"cannot listen for ranks on {address}: {error.strerror}") from None

    def _take_seats(self, door: RankDoor, shape: Shape, start: Start) -> list[tuple[Seat, Any]]:
        """Start an actor for each rank, and return them in the order of ranks."""
        need = self._need.each
        kind = ray.remote(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), max_restarts=0, max_task_retries=0)(
            RankActor
        )
        for node in range(shape.num_nodes):
            there = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=node)
            for _ in range(shape.num_local):
                actor = kind.options(scheduling_strategy=there).remote()
                with self._lock:
                    self._actors.append(actor)
        asked = [actor.seat.remote((door.address.host, door.address.port)) for actor in self._actors]
        told = [msgspec.json.decode(said, type=Seat) for said in self._answers(asked, start)]
        seated = sorted(zip(told, self._actors, strict=True), key=lambda each: each[0].order)
        return seated

    def _connect(
        self, door: RankDoor, seated: Sequence[tuple[Seat, Any]], shape: Shape, start: Start
    ) -> list[RankHandle]:
        first, actor = seated[0]
        host = "127.0.0.1" if shape.num_nodes == 1 else first.address
        (port,) = self._answers([actor.meeting.remote(host, shape.num_nodes * shape.num_local)], start)
        firsts = [actor.shelf.remote() for _, actor in seated[:: shape.num_local]] if self._is_placed else []
        shelves = self._answers(firsts, start)
        opens, folder = msgspec.json.encode(door.address), os.getcwd()
        devices = {
            node: ",".join(device for seat, _ in seats for device in seat.devices)
            for node, seats in groupby(seated, key=lambda each: each[0].node)
        }
        serving, places = [], []
        for rank, (seat, actor) in enumerate(seated):
            node_rank, local_rank = divmod(rank, shape.num_local)
            place = messages.RankPlace(
                rank=rank,
                num_ranks=len(seated),
                local_rank=local_rank,
                num_local=shape.num_local,
                address=seat.address if shape.num_nodes > 1 else host,
                host=host,
                port=port,
                num_sharing=shape.num_local if self._is_placed else 1,
                scratch=seat.scratch if rank == 0 else "",
            )
            setup = messages.WorkerSetup(
                config=self._config, limits=self._limits, place=place, checkpoint=start.checkpoint
            )
            shelf = shelves[node_rank] if self._is_placed else ""
            serving.append(actor.serve.remote(msgspec.json.encode(setup), opens, shelf, devices[seat.node], folder))
            places.append(place)
        processes = [RayProcess(actor, task, seat) for (seat, actor), task in zip(seated, serving, strict=True)]

        def look() -> None:
            start.pause(0.0)
            for rank, process in enumerate(processes):
                if (ending := process.wait(0.0)) is not None and not door.has_admitted(rank):
                    raise WorkerError(f"rank {rank}: {ending.told}")

        came = door.admit(look)
        return [RankHandle(place, came[rank], processes[rank]) for rank, place in enumerate(places)]

    def _answers(self, asked: list[Any], start: Start) -> list[Any]:
        """Wait for the answers of all actors. Raises WorkerError if one of them has ended."""
        left = asked
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=LOOK_SECONDS)
            start.pause(0.0)
        try:
            answers: list[Any] = ray.get(asked)
            return answers
        except RayActorError as error:
            raise WorkerError(f"a process of the cluster ended before it was a rank: {error}") from None
