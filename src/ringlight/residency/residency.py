"""Residency: the owner of a rank's weights, which lie on the host and are on the device while they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from ringlight.core.report import WeightsReport
from ringlight.residency.feed import Feed
from ringlight.residency.in_place import InPlace
from ringlight.residency.lane import Lane, Wait
from ringlight.residency.on_demand import OnDemand
from ringlight.residency.part import WeightPart
from ringlight.residency.source import WeightSource
from ringlight.residency.weights import ALWAYS_THERE, Weights
from ringlight.residency.widening import Widening


class Residency:
    """Weights of all networks, and the way to the device.

    The way is a lane, or none if the device reads the host's copy itself, as a CPU does.
    """

    def __init__(self, source: WeightSource, lane: Lane | None) -> None:
        self.source = source
        self._lane = lane
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._waits: defaultdict[str, list[Wait]] = defaultdict(list)

    @contextmanager
    def open(
        self, name: str, parts: Sequence[WeightPart], kept: Collection[int], sharing: int = 1, in_order: bool = True
    ) -> Iterator[Weights]:
        """Provide the weights of a network while a stage runs.

        `kept` are the indices of parts that stay until it ends, and `sharing` computations go through each pass
        together. Parts that are taken in their order come ahead of that. `name` is what reports call it.
        """
        if self._lane is None:
            feed: InPlace | Feed | OnDemand = InPlace(parts, self.source, kept, sharing)
        elif in_order:
            feed = Feed(parts, self.source, self._lane, kept, sharing)
        else:
            feed = OnDemand(parts, self.source, self._lane)
        try:
            yield feed
        finally:
            feed.close()
            self._bytes[name] += feed.num_bytes
            self._waits[name] += feed.waits

    def reset(self) -> None:
        """Forget what was counted."""
        self._bytes.clear()
        self._waits.clear()

    def report(self) -> WeightsReport:
        """Report on the weights that came since `reset`, and on those on the host."""
        return WeightsReport(
            host_bytes=self.source.num_bytes,
            pinned_bytes=self.source.pinned_bytes,
            brought_bytes=dict(self._bytes),
            wait_seconds={name: sum(wait.seconds for wait in waits) for name, waits in self._waits.items()},
        )


@contextmanager
def at_work(
    residency: Residency | None,
    name: str,
    parts: Sequence[WeightPart],
    kept: Collection[int] = (),
    sharing: int = 1,
    in_order: bool = True,
) -> Iterator[Weights]:
    """Provide the weights of a network while a stage runs: they come where they have to, or all are there.

    All are there without a residency. Those in eight bits are widened while they are taken.
    """
    with (
        nullcontext(ALWAYS_THERE)
        if residency is None
        else residency.open(name, parts, kept, sharing, in_order) as weights
    ):
        widening = Widening(weights, parts, sharing)
        try:
            yield widening
        finally:
            widening.close()
