"""One rank's denoising forwards on a clock: what is computed when, and how long link and bus leave it waiting.

The programs below do what parallel/attention (`Whole`), parallel/ahead (`Ahead`) and parallel/turns do, with seconds in
place of tensors. All ranks are alike, so what this one sends at a time is what it receives then; messages go over the
link one after another, and so do weights over the bus, behind messages that share it. Nothing here is fitted: what is
hidden follows from the order of the code.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from itertools import cycle

import msgspec

from ringlight.core.portions import slice_weights

Program = Generator[None, None, None]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Block of the transformer on one rank, in seconds of computation and bytes that it sends.

    `attention` to all keys, `finish` what follows it, `offer` the projections of q, k and v. `ring_bytes` are all hops
    together, `there_bytes` and `back_bytes` the two exchanges of Ulysses.
    """

    offer: float
    attention: float
    finish: float
    ring_bytes: float = 0.0
    there_bytes: float = 0.0
    back_bytes: float = 0.0
    num_ring: int = 1
    num_ulysses: int = 1

    @property
    def seconds(self) -> float:
        return self.offer + self.attention + self.finish


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks whose weights come from the host for every pass, each of so many bytes, into so many slots.

    `shares_lane`: messages of the link come over the same bus.
    """

    blocks: tuple[int, ...]
    block_bytes: float
    bytes_per_second: float
    slots: int
    shares_lane: bool


class Replayed(msgspec.Struct, frozen=True):
    """Result of a replay in seconds: from start to end, computed, on the link, and of weights on the bus."""

    elapsed: float
    computed: float
    link: float
    bus: float = 0.0

    @property
    def exposed(self) -> float:
        """Seconds that link and bus added to the computation."""
        return min(self.link + self.bus, max(0.0, self.elapsed - self.computed))


class Loads:
    """Weights on their way, in the order in which blocks need them.

    Each sets out as soon as the one before it is there and a slot is free, and stays until all forwards that share a
    pass are done with it.
    """

    def __init__(self, streamed: Streamed, num_sharing: int) -> None:
        self.bus = 0.0
        self._shares_lane, self._rate = streamed.shares_lane, streamed.bytes_per_second
        self._seconds, self._num_sharing = streamed.block_bytes / streamed.bytes_per_second, num_sharing
        self._order = cycle(streamed.blocks)
        self._ready: dict[int, float] = {}
        self._done: dict[int, int] = {}
        self._free = 0.0
        for _ in range(streamed.slots):
            self._load(0.0)

    def ready(self, block: int) -> float:
        """Time at which the weights of a block are there; 0 for those that always are."""
        return self._ready.get(block, 0.0)

    def done(self, block: int, now: float) -> None:
        """Note that a forward needs a block's weights no more."""
        if block not in self._ready:
            return
        self._done[block] = self._done.get(block, 0) + 1
        if self._done[block] == self._num_sharing:
            del self._ready[block], self._done[block]
            self._load(now)

    def give_way(self, num_bytes: float, now: float) -> None:
        """Delay what is still on its way by the time that a message of the link takes on the bus."""
        if not self._shares_lane:
            return
        seconds = num_bytes / self._rate
        self._free = max(self._free, now) + seconds
        self._ready = {block: ready + seconds * (ready > now) for block, ready in self._ready.items()}

    def _load(self, now: float) -> None:
        self._free = max(self._free, now) + self._seconds
        self._ready[next(self._order)] = self._free
        self.bus += self._seconds


class Rank:
    """Device with its link and its bus, each doing one thing after another."""

    def __init__(self, link: tuple[float, float, float], loads: Loads | None = None) -> None:
        self.now = self.computed = self.link = 0.0
        self._rate, self._latency, self._busy = link
        self._link_free, self._loads = 0.0, loads

    @property
    def so_far(self) -> tuple[float, float, float, float]:
        """Seconds that have passed, were computed, on the link and on the bus."""
        return self.now, self.computed, self.link, 0.0 if self._loads is None else self._loads.bus

    def take(self, block: int) -> None:
        """Wait for a block's weights."""
        if self._loads is not None:
            self.wait(self._loads.ready(block))

    def done(self, block: int) -> None:
        """Give a block's weights back."""
        if self._loads is not None:
            self._loads.done(block, self.now)

    def compute(self, seconds: float) -> None:
        self.now += seconds
        self.computed += seconds

    def send(self, num_bytes: float, num_messages: int = 1) -> float:
        """Send bytes; returns when as many have come in. Their arrival may take computation from the device."""
        if not num_bytes:
            return self.now
        busy = num_bytes * self._busy
        self.now += busy
        seconds = num_bytes / self._rate + num_messages * self._latency
        self._link_free = max(self._link_free, self.now) + seconds
        if self._loads is not None:
            self._loads.give_way(num_bytes, self.now)
        self.link += seconds + busy
        return self._link_free

    def wait(self, arrival: float) -> None:
        self.now = max(self.now, arrival)


def whole(rank: Rank, block: Block, num_blocks: int) -> Program:
    """Replay all tokens at once: keys and values of the next ring rank travel while the kernel runs on what is held."""

    def depart() -> float:
        if block.num_ulysses > 1:
            return rank.send(block.there_bytes, block.num_ulysses - 1)
        return rank.send(hop_bytes)

    hops = block.num_ring - 1
    hop_bytes = block.ring_bytes / hops if hops else 0.0
    rank.take(0)
    rank.compute(block.offer)
    arrival = depart()
    for index in range(num_blocks):
        yield
        if block.num_ulysses > 1:
            rank.wait(arrival)
            arrival = rank.send(hop_bytes)
        for hop in range(block.num_ring):
            rank.compute(block.attention / block.num_ring)
            if hop < hops:
                rank.wait(arrival)
                arrival = rank.send(hop_bytes) if hop + 1 < hops else arrival
        if block.num_ulysses > 1:
            back = rank.send(block.back_bytes, block.num_ulysses - 1)
            yield
            rank.wait(back)
        rank.compute(block.finish)
        if index < num_blocks - 1:
            rank.take(index + 1)
            rank.compute(block.offer)
            arrival = depart()
        rank.done(index)


def ahead(rank: Rank, block: Block, num_blocks: int, num_slices: int) -> Program:
    """Replay slice by slice: q, k and v of the next block leave while the following slices are computed.

    Of attention, own queries with own keys wait for nothing; all early slices come next, the last ones at the end, and
    what goes back to other ranks of a Ulysses group is sent before the rest of the own.
    """
    weights = [weight / sum(slice_weights(num_slices)) for weight in slice_weights(num_slices)]
    num_ranks = block.num_ring * block.num_ulysses
    own_q, own_k, late = 1 / block.num_ulysses, 1 / num_ranks, weights[-1]
    first = own_q * own_k
    middle = own_q * (1 - own_k) * (1 - late) + (1 - own_q) * (1 - late) * (own_k + (1 - own_k) * (1 - late))
    last_own = own_q * (1 - own_k) * late
    last_others = 1 - first - middle - last_own

    def offer(index: int, weight: float) -> float:
        rank.take(index)
        rank.compute(weight * block.offer)
        return rank.send(weight * (block.ring_bytes + block.there_bytes), num_ranks - 1)

    arrivals = [offer(0, weight) for weight in weights]
    for index in range(num_blocks):
        yield
        rank.compute(first * block.attention)
        rank.wait(arrivals[-2])
        rank.compute(middle * block.attention)
        rank.wait(arrivals[-1])
        rank.compute(last_others * block.attention)
        backs = [rank.send(weight * block.back_bytes, block.num_ulysses - 1) for weight in weights]
        rank.compute(last_own * block.attention)
        if block.num_ulysses > 1:
            yield
        arrivals = []
        for weight, back in zip(weights, backs, strict=True):
            rank.wait(back)
            rank.compute(weight * block.finish)
            if index < num_blocks - 1:
                arrivals.append(offer(index + 1, weight))
        rank.done(index)


@lru_cache(maxsize=256)  # the same blocks come again for every budget that is tried
def replay(
    block: Block,
    num_blocks: int,
    num_slices: int,
    num_forwards: int,
    take_turns: bool,
    link: tuple[float, float, float],
    streamed: Streamed | None = None,
) -> Replayed:
    """Replay one prediction: one forward, or two that alternate, which share a pass over the weights, or in sequence.

    `link`: bytes a second, seconds a message, and seconds of computation that a byte takes. With streamed weights it is
    one that follows another one, under which its first weights have come already.
    """
    rank = Rank(link, Loads(streamed, num_forwards if take_turns else 1) if streamed else None)

    def program() -> Program:
        if num_slices > 1 and block.num_ring * block.num_ulysses > 1:
            return ahead(rank, block, num_blocks, num_slices)
        return whole(rank, block, num_blocks)

    def predict() -> None:
        programs = [program() for _ in range(num_forwards)]
        for together in [programs] if take_turns else [[each] for each in programs]:
            running = list(together)
            while running:
                running = [each for each in running if _goes_on(each)]

    if streamed:
        predict()
    before = rank.so_far
    predict()
    return Replayed(*(after - start for after, start in zip(rank.so_far, before, strict=True)))


def _goes_on(program: Program) -> bool:
    """Run a program up to its next pause; returns whether there was one."""
    try:
        next(program)
    except StopIteration:
        return False
    return True
