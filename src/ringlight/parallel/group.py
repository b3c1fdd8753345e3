"""RankGroup: the processes that make one video together, and how they find each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from ringlight.core.messages import RankPlace
from ringlight.parallel.control import Control
from ringlight.parallel.link import PATIENCE, Link, LinkLost
from ringlight.parallel.meeting import meet
from ringlight.parallel.mesh import Axis
from ringlight.parallel.pulse import Pulse


class RankGroup:
    """This rank's link for data (NCCL on CUDA, gloo on a CPU), its control group (gloo), and its pulse.

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
    def join(
        cls,
        place: RankPlace,
        device: torch.device,
        terms: Mapping[str, str],
        startup_seconds: float,
        watchdog_seconds: float,
        on_lost: Callable[[str, str, bool], None],
    ) -> RankGroup:
        """Meet the other ranks; returns when all are there.

        Raises InvalidLayout where their `terms` differ, RuntimeError after `startup_seconds` without all of them.
        """
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
        meet(store, place.rank, place.num_ranks, terms, startup_seconds)
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.num_ranks, timeout=PATIENCE)
        control = Control(dist.group.WORLD, place.rank, place.num_ranks)
        pulse = Pulse(store, place.rank, place.num_ranks, watchdog_seconds, on_lost)
        control.agree(0)
        pulse.start()
        group = cls(place, control, Link(), pulse, watchdog_seconds)
        group.renew(device)
        return group

    @property
    def world(self) -> Axis:
        """All ranks, whatever their layout."""
        return Axis(tuple(range(self.place.num_ranks)), self.place.rank, self.link)

    def renew(self, device: torch.device) -> None:
        """New data groups in the place of those with messages that nobody will fetch. All ranks call it together."""
        if self.place.num_ranks > 1:
            self.link.open("nccl" if device.type == "cuda" else "gloo", device)

    def expect(self, seconds: float | None) -> None:
        """The next boundary comes within so many seconds; None: nobody knows when."""
        if self._pulse is not None:
            self._pulse.expect(seconds)

    def leave(self) -> None:
        """The end, which all ranks come to: none takes it for a loss that others are gone sooner."""
        if self._pulse is not None:
            self._pulse.stop()
            with contextlib.suppress(LinkLost):
                self.control.agree(0, self.watchdog_seconds)

    def confess(self, code: str, message: str) -> None:
        """Tell the other ranks why this one ends."""
        if self._pulse is not None:
            self._pulse.confess(code, message)

    def hear_confession(self) -> tuple[str, str] | None:
        """After another rank was lost: (code, message) of the one that began it, if one says so soon."""
        return None if self._pulse is None else self._pulse.hear_confession()
