"""Link: what ranks talk through, and what that costs: bytes sent and seconds waited, by kind of traffic."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group

from ringlight.core.report import LinkReport
from ringlight.parallel.collective import collective

# ring: keys and values around a ring. ulysses: q, k, v to heads and outputs back. cfg: predictions of the other
# guidance branch. halo: edge rows of the VAE's bands. gather: parts joined into a whole. text: hidden states and
# embeddings of prompts. frames: decoded frames to the rank that writes them.
Kind = Literal["ring", "ulysses", "cfg", "halo", "gather", "text", "frames"]


# Groups wait for as long as it takes: Pulse knows within seconds whether that is in vain, and by how much work is due.
PATIENCE = timedelta(days=365)


class LinkLost(Exception):
    """Error for a lost rank, or one that did not come in time: the group is out of step and cannot go on."""


class Link:
    """The groups of all ranks of a worker, and a meter. One for all axes of all layouts of the same ranks.

    On CUDA a wait is a dependency between streams, so its seconds are taken from events on the stream that waits.
    """

    def __init__(self) -> None:
        """Create a link without groups: of a single rank, or not yet opened."""
        self.is_gloo = False
        self._lanes: list[dist.ProcessGroup] = []
        self._bytes: defaultdict[Kind, int] = defaultdict(int)
        self._seconds: defaultdict[Kind, float] = defaultdict(float)
        self._events: list[tuple[Kind, torch.cuda.Event, torch.cuda.Event]] = []

    @collective
    def open(self, backend: Literal["gloo", "nccl"], device: torch.device) -> None:
        """Make the groups, replacing earlier ones. All ranks of the default group call it together.

        With gloo one for each direction: both directions of one connection share a lock, and gloo's thread spins while
        the main one holds it. Where they share a core that cost milliseconds a message (docs/log.md).
        """
        for lane in self._lanes:
            self._abandon(lane)
        self.is_gloo = backend == "gloo"
        self._lanes = [new_group(backend) for _ in range(2 if self.is_gloo else 1)]
        if not self.is_gloo:  # its first message must come from all ranks at once; later ones may be of two
            dist.barrier(self._lanes[0], device_ids=[device.index])

    def _abandon(self, lane: dist.ProcessGroup) -> None:
        """End a group of which some messages may never be fetched. NCCL's own end would wait for each of them."""
        if self.is_gloo:
            dist.destroy_process_group(lane)
        else:
            _abort_process_group(lane)

    def lane(self, sender: int, receiver: int) -> dist.ProcessGroup:
        """The group for messages from one global rank to another."""
        return self._lanes[sender < receiver] if self.is_gloo else self._lanes[0]

    def reset(self) -> None:
        """Forget what was counted."""
        self._bytes.clear()
        self._seconds.clear()
        self._events.clear()

    def report(self) -> dict[str, LinkReport]:
        """Bytes this rank sent and seconds it waited since `reset`, by kind; kinds without traffic are left out."""
        for kind, start, end in self._events:
            end.synchronize()
            self._seconds[kind] += start.elapsed_time(end) / 1000
        self._events.clear()
        kinds = sorted(self._bytes.keys() | self._seconds.keys())
        return {kind: LinkReport(sent_bytes=self._bytes[kind], wait_seconds=self._seconds[kind]) for kind in kinds}

    def count(self, kind: Kind, num_bytes: int) -> None:
        """Count `num_bytes` that leave this rank."""
        self._bytes[kind] += num_bytes

    @contextmanager
    def waiting(self, kind: Kind, on_cuda: bool) -> Iterator[None]:
        """Count the time within this context as a wait for the link."""
        if not on_cuda:
            start = time.perf_counter()
            yield
            self._seconds[kind] += time.perf_counter() - start
            return
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        yield
        ended.record()
        self._events.append((kind, began, ended))


@collective
def new_group(backend: str) -> dist.ProcessGroup:
    """A group of all ranks."""
    group = dist.new_group(backend=backend, timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return group
