"""Parts of a network through few slots: always the right weights, never more bytes than planned, in any order."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ringlight.kernels.linear import Linear
from ringlight.residency.feed import NUM_SLOTS, Feed, spread
from ringlight.residency.in_place import InPlace
from ringlight.residency.on_demand import OnDemand
from ringlight.residency.part import WeightPart
from ringlight.residency.shelf import Shelf
from tests.residency.lanes import LateLane

WIDTH, LAYERS = 24, 7


class Chain:
    """Some layers, on a shelf, and what they should make."""

    def __init__(self, num_layers: int = LAYERS) -> None:
        generator = torch.Generator().manual_seed(num_layers)
        self.layers = [Linear(WIDTH, WIDTH).requires_grad_(False) for _ in range(num_layers)]
        drawn = [[torch.randn(p.shape, generator=generator) for p in layer.parameters()] for layer in self.layers]
        self.parts = [WeightPart(f"layer {number}", [layer]) for number, layer in enumerate(self.layers)]
        self.shelf = Shelf(self.parts)
        self.shelf.bind(self.parts)
        for layer, values in zip(self.layers, drawn, strict=True):
            for parameter, value in zip(layer.parameters(), values, strict=True):
                parameter.copy_(value)
        self.x = torch.randn(5, WIDTH, generator=generator)
        self.expected = self.through(None)

    def through(self, weights: Feed | InPlace | OnDemand | None) -> Tensor:
        x = self.x
        for number, layer in enumerate(self.layers):
            if weights is not None:
                weights.take(number)
            x = layer(x)
            if weights is not None:
                weights.done(number)
        return x

    @property
    def widest(self) -> int:
        return max(part.num_bytes for part in self.parts)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 7])
@pytest.mark.parametrize("streamed", [0, 1, 2, 7])
def test_passes_have_the_right_weights_within_so_many_bytes(num_layers: int, streamed: int) -> None:
    chain, lane, streamed = Chain(num_layers), LateLane(), min(num_layers, streamed)
    kept = spread(streamed, num_layers)
    assert len(kept) == num_layers - streamed
    with closing(Feed(chain.parts, chain.shelf, lane, kept)) as feed:
        for _ in range(3):
            assert torch.equal(chain.through(feed), chain.expected)
        brought = feed.num_bytes
    assert lane.peak_bytes <= (len(kept) + min(NUM_SLOTS, streamed)) * chain.widest
    assert lane.live_bytes == 0  # nothing is left when the stage is over
    wanted = (len(kept) + 3 * streamed) * chain.widest
    assert wanted <= brought <= wanted + NUM_SLOTS * chain.widest  # what was on its way to a pass that did not come
    assert torch.equal(chain.through(None), chain.expected)


@pytest.mark.parametrize("streamed", [1, 3, 7])
def test_two_share_a_pass(streamed: int) -> None:
    """One of them is a layer ahead of the other now and then, as forwards that take turns are."""
    chain, lane = Chain(), LateLane()
    with closing(Feed(chain.parts, chain.shelf, lane, spread(streamed, LAYERS), sharing=2)) as feed:
        for _ in range(2):
            first = second = chain.x
            feed.take(0)
            for number, layer in enumerate(chain.layers):
                first = layer(first)
                if number + 1 < LAYERS:
                    feed.take(number + 1)
                feed.done(number)
                feed.take(number)
                second = layer(second)
                feed.done(number)
            assert torch.equal(first, chain.expected)
            assert torch.equal(second, chain.expected)
        assert feed.num_bytes <= (LAYERS - streamed + 2 * streamed + NUM_SLOTS) * chain.widest  # a pass for both


@pytest.mark.parametrize("stop", [0, 3, 6])
def test_a_stage_that_ends_in_the_middle_leaves_nothing(stop: int) -> None:
    """As after a cancel. The next stage begins at the first part."""
    chain, lane = Chain(), LateLane()

    def fail() -> None:
        with closing(Feed(chain.parts, chain.shelf, lane, spread(5, LAYERS))) as feed:
            for number in range(stop):
                feed.take(number)
                feed.done(number)
            feed.take(stop)
            raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            fail()
        assert lane.live_bytes == 0
    with closing(Feed(chain.parts, chain.shelf, lane, spread(5, LAYERS))) as feed:
        assert torch.equal(chain.through(feed), chain.expected)


def test_on_demand_in_any_order() -> None:
    chain, lane = Chain(), LateLane()
    with closing(OnDemand(chain.parts, chain.shelf, lane)) as weights:
        assert torch.equal(chain.through(weights), chain.expected)
        for number in (3, 4, 4, 3, 5):
            expected = chain.layers[number](chain.x)
            weights.take(number)
            weights.take(number)  # is there
            assert torch.equal(chain.layers[number](chain.x), expected)
            weights.done(number)
    assert lane.peak_bytes == chain.widest
    assert lane.live_bytes == 0


@pytest.mark.parametrize("streamed", [0, 4, 7])
def test_a_cpu_computes_in_place(streamed: int) -> None:
    """The same to the bit with packed weights and with plain ones."""
    chain = Chain()
    kept = spread(streamed, LAYERS)
    with closing(InPlace(chain.parts, chain.shelf, kept)) as weights:
        for _ in range(2):
            assert torch.equal(chain.through(weights), chain.expected)
        packed = [layer.weight.numel() == 0 for layer in chain.layers]
    assert packed == [number in kept for number in range(LAYERS)]
    assert all(layer.weight.numel() for layer in chain.layers)
    assert torch.equal(chain.through(None), chain.expected)


class Doubled(Chain):
    """A chain of which every second layer's bias and weight are doubled wherever they are computed with."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(0, LAYERS, 2):
            self.parts[number].change = partial(self._double, self.layers[number])
        plain = self.expected
        for layer in self.layers[::2]:
            self._double(layer)
        self.expected = self.through(None)
        for layer in self.layers[::2]:
            layer.weight /= 2
            layer.bias /= 2
        assert torch.equal(self.through(None), plain)

    @staticmethod
    def _double(layer: Linear) -> None:
        layer.weight *= 2
        layer.bias *= 2


@pytest.mark.parametrize("way", ["feed", "in place", "on demand"])
@pytest.mark.parametrize("streamed", [0, 3, 7])
def test_what_is_changed_is_so_where_it_is_computed_with(way: str, streamed: int) -> None:
    """Once each time that it comes; what it comes from stays as it is."""
    chain, kept = Doubled(), spread(streamed, LAYERS)
    before = [part.clone() for part in map(chain.shelf.flat, chain.parts)]
    weights: Feed | InPlace | OnDemand
    if way == "feed":
        weights = Feed(chain.parts, chain.shelf, LateLane(), kept)
    elif way == "on demand":
        weights = OnDemand(chain.parts, chain.shelf, LateLane())
    else:
        weights = InPlace(chain.parts, chain.shelf, kept)
    with closing(weights):
        for _ in range(3):
            assert torch.equal(chain.through(weights), chain.expected)
        if way == "in place":  # what is packed is all that there is of a layer of its own
            own = [chain.layers[number].bias.untyped_storage().nbytes() for number in kept if number % 2 == 0]
            assert all(size == WIDTH * 4 for size in own)
    assert all(map(torch.equal, map(chain.shelf.flat, chain.parts), before))
    for part in chain.parts:
        part.change = None
    assert not torch.equal(chain.through(None), chain.expected)


def test_a_part_lies_as_kernels_want_it() -> None:
    """Kernels of three axes channels last, all of them on bounds that any kernel takes, each byte once."""
    network = nn.ModuleDict({"conv": nn.Conv3d(3, 5, 3), "norm": nn.LayerNorm(7), "map": nn.Linear(5, 3)}).bfloat16()
    part = WeightPart("part", [network], without=[network["map"].bias])
    assert len(part.slots) == 5
    ends = [slot.offset + 2 * slot.shape.numel() for slot in part.slots]
    assert all(slot.offset % 64 == 0 for slot in part.slots)
    assert all(slot.offset >= end for slot, end in zip(part.slots[1:], ends, strict=False))
    flat = torch.zeros(part.num_bytes, dtype=torch.uint8)
    before = [parameter.clone() for parameter in part.parameters]
    part.bind(flat)
    for parameter, value in zip(part.parameters, before, strict=True):
        parameter.data.copy_(value)
    assert network["conv"].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(a, b) for a, b in zip(part.parameters, before, strict=True))
    assert len(network["map"].bias) == 3
