"""One rank's denoising forwards on a clock: what is computed when, and how long the link leaves it waiting.

The programs below do what parallel/attention (`Whole`), parallel/ahead (`Ahead`) and parallel/turns do, with seconds in
place of tensors. All ranks are alike, so what this one sends at a time is what it receives then; messages go over the
link one after another. Nothing here is fitted: what is hidden follows from the order of the code.
"""

from __future__ import annotations

from collections.abc import Generator

import msgspec

from ringlight.core.portions import slice_weights

Program = Generator[None, None, None]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A block of the transformer on one rank, in seconds of computation and bytes that it sends.

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


class Replayed(msgspec.Struct, frozen=True):
    """Seconds: from start to end, computed, and on the link."""

    elapsed: float
    computed: float
    link: float

    @property
    def exposed(self) -> float:
        """What the link added to the computation."""
        return min(self.link, max(0.0, self.elapsed - self.computed))


class Rank:
    """A device and its link, each doing one thing after another."""

    def __init__(self, bytes_per_second: float, latency_seconds: float, busy_seconds_per_byte: float) -> None:
        self.now = self.computed = self.link = 0.0
        self._rate, self._latency, self._busy = bytes_per_second, latency_seconds, busy_seconds_per_byte
        self._link_free = 0.0

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
        self.link += seconds + busy
        return self._link_free

    def wait(self, arrival: float) -> None:
        self.now = max(self.now, arrival)


def whole(rank: Rank, block: Block, num_blocks: int) -> Program:
    """All tokens at once: keys and values of the next ring rank travel while the kernel runs on what is held."""

    def depart() -> float:
        if block.num_ulysses > 1:
            return rank.send(block.there_bytes, block.num_ulysses - 1)
        return rank.send(hop_bytes)

    hops = block.num_ring - 1
    hop_bytes = block.ring_bytes / hops if hops else 0.0
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
            rank.compute(block.offer)
            arrival = depart()


def ahead(rank: Rank, block: Block, num_blocks: int, num_slices: int) -> Program:
    """Slice by slice: each slice's q, k and v of the next block leave while the following slices are computed.

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

    def offer(weight: float) -> float:
        rank.compute(weight * block.offer)
        return rank.send(weight * (block.ring_bytes + block.there_bytes), num_ranks - 1)

    arrivals = [offer(weight) for weight in weights]
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
                arrivals.append(offer(weight))


def replay(
    block: Block,
    num_blocks: int,
    num_slices: int,
    num_forwards: int,
    take_turns: bool,
    link: tuple[float, float, float],
) -> Replayed:
    """One prediction: one forward, or two in turns or one after another.

    `link`: bytes a second, seconds a message, and seconds of computation that a byte takes.
    """
    rank = Rank(*link)

    def program() -> Program:
        if num_slices > 1 and block.num_ring * block.num_ulysses > 1:
            return ahead(rank, block, num_blocks, num_slices)
        return whole(rank, block, num_blocks)

    programs = [program() for _ in range(num_forwards)]
    for together in [programs] if take_turns else [[each] for each in programs]:
        running = list(together)
        while running:
            running = [each for each in running if _goes_on(each)]
    return Replayed(rank.now, rank.computed, rank.link)


def _goes_on(program: Program) -> bool:
    """Run a program up to its next pause; whether there was one."""
    try:
        next(program)
    except StopIteration:
        return False
    return True
