"""RankGroup: the processes that make one video together, and how they find each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from ringlight.core.config import EngineConfig
from ringlight.core.messages import RankPlace
from ringlight.parallel.collective import collective
from ringlight.parallel.control import Control
from ringlight.parallel.link import PATIENCE, Link, LinkLost
from ringlight.parallel.meeting import Tell, meet
from ringlight.parallel.mesh import Axis
from ringlight.parallel.pulse import Loss, Pulse


class RankGroup:
    """Connections of this rank: a link for data (NCCL on CUDA, gloo on a CPU), a control group (gloo), and a pulse.

    A single rank has all three, and they do nothing.
    """

    def __init__(
        self, place: RankPlace, control: Control, link: Link, pulse: Pulse | None, watchdog_seconds: float
    ) -> None:
        self.place = place
        self.watchdog_seconds = watchdog_seconds
        self.control = control
        self.link = link
        self._pulse = pulse

    @classmethod
    @collective
    def join(
        cls,
        place: RankPlace,
        device: torch.device,
        terms: Mapping[str, str],
        config: EngineConfig,
        tell: Tell,
        on_lost: Callable[[Loss, bool], None],
    ) -> RankGroup:
        """Meet the other ranks; returns when all are there. `tell` hears who is waited for (`meet`).

        Raises InvalidLayout where their `terms` differ, WorkerError where they do not come in time.
        """
        watchdog_seconds, startup_seconds = config.watchdog_timeout, config.startup_timeout
        if place.num_ranks == 1:
            return cls(place, Control(None, 0, 1), Link(), None, watchdog_seconds)
        store = TCPStore(
            place.host,
            place.port,
            place.num_ranks,
            is_master=place.rank == 0,
            timeout=timedelta(seconds=startup_seconds),
            wait_for_workers=False,
            master_listen_fd=place.listener if place.listener >= 0 else None,
        )
        roster = meet(store, place, terms, startup_seconds, config.nodes.refuses_alone, tell)
        pulse = Pulse(store, place.rank, roster, watchdog_seconds, on_lost)
        pulse.start()  # before anything that waits for others
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.num_ranks, timeout=PATIENCE)
        control = Control(dist.group.WORLD, place.rank, place.num_ranks)
        control.agree(0)
        group = cls(place, control, Link(), pulse, watchdog_seconds)
        group.renew(device)
        return group

    @property
    def world(self) -> Axis:
        """All ranks, whatever their layout."""
        return Axis(tuple(range(self.place.num_ranks)), self.place.rank, self.link)

    @collective
    def renew(self, device: torch.device) -> None:
        """Make new data groups after messages that nobody will fetch. All ranks call it together."""
        if self.place.num_ranks > 1:
            self.link.open("nccl" if device.type == "cuda" else "gloo", device)

    def expect(self, seconds: float | None) -> None:
        """Announce that the next boundary comes within so many seconds; None: unknown."""
        if self._pulse is not None:
            self._pulse.expect(seconds)

    @collective
    def leave(self) -> None:
        """Leave the group at its end, which all ranks reach: none takes it for a loss that others are gone sooner."""
        if self._pulse is not None:
            self._pulse.stop()
            with contextlib.suppress(LinkLost):
                self.control.agree(0, self.watchdog_seconds)

    def confess(self, code: str, message: str) -> None:
        """Tell the other ranks why this one ends."""
        if self._pulse is not None:
            self._pulse.confess(code, message)

    def hear_cause(self) -> Loss:
        """Wait for the first cause after another rank was lost. There are other ranks."""
        assert self._pulse is not None
        return self._pulse.hear_cause()
