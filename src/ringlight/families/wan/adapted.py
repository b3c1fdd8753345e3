"""AdaptedTransformer: a transformer, or an expert, with what LoRAs add to its weights, wherever these lie.

Of each weight it is decided once, when LoRAs are taken up, whether what is added is merged or comes on the fly.
Merges always start from the weight as it was loaded: on a device that has all weights these are filled again first, and
those on the host are never written but changed where they are computed with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ringlight.core.eight_bit import scale_of
from ringlight.core.lora import Lora, LoraFile
from ringlight.core.report import LoraReport
from ringlight.families.wan.networks.naming import transformer_slots
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.kernels.adapter import Adapter, Excerpt, OnTheFly, as_rows, excerpt_of, joined
from ringlight.kernels.linear import Linear
from ringlight.kernels.widening import HELD, widened
from ringlight.models.loading import HasSlots
from ringlight.residency.part import WeightPart
from ringlight.residency.source import WeightSource

MERGED, EIGHT_BIT, SMALL = "merged", "on the fly: 8-bit weights", "on the fly: small"
SHOWN_DIGITS = 12  # of a hash
MOST_LOST = 0.1  # of what is added, that rounding may change in a merge: else it is added on the fly
Adapters = Mapping[str, Adapter]  # by the checkpoint's names of weights
Refill = Callable[[HasSlots], None]


class TensorPlace(NamedTuple):
    """Location of a checkpoint's tensor: values of a module's parameter, from `start` on."""

    module: nn.Module
    name: str
    start: int
    shape: torch.Size

    @property
    def parameter(self) -> nn.Parameter:
        """Current parameter of the module."""
        found: nn.Parameter = getattr(self.module, self.name)
        return found

    @property
    def view(self) -> Tensor:
        """View of its values, in the shape that it has in the checkpoint."""
        return self.parameter.data.view(-1)[self.start : self.start + self.shape.numel()].view(self.shape)

    @property
    def first_row(self) -> int:
        """Output that the first row of a matrix belongs to."""
        return self.start // self.shape[1:].numel()


class SomeSlots(NamedTuple):
    """Network of which only some tensors are to be filled."""

    places: Mapping[str, TensorPlace]
    wanted: frozenset[str]

    def checkpoint_slots(self) -> dict[str, Tensor]:
        """Slots for all names of the checkpoint, without memory except for these tensors."""
        return {
            name: place.view if name in self.wanted else torch.empty(place.shape, device="meta")
            for name, place in self.places.items()
        }


class Applied(NamedTuple):
    """Result of applying a LoRA to an expert: number of weights by way of applying, and its largest relative size."""

    ways: Counter[str]
    largest: float


class _Found:
    """Findings on LoRAs, weight by weight."""

    def __init__(self, loras: Sequence[Adapters]) -> None:
        self._loras = loras
        self.ways: dict[str, str] = {}
        self._largest = [0.0] * len(loras)

    def add(self, name: str, way: str, base: Tensor, excerpt: Excerpt) -> None:
        """Add a weight, of which `base` is this excerpt."""
        self.ways[name] = way
        for number, lora in enumerate(self._loras):
            if name in lora:
                self._largest[number] = max(self._largest[number], lora[name].size(base, excerpt))

    @property
    def applied(self) -> list[Applied]:
        """Findings of each LoRA."""
        ways = (Counter(self.ways[name] for name in lora) for lora in self._loras)
        return list(map(Applied, ways, self._largest))


class AdaptedTransformer:
    """Transformer in parts, with the additions of LoRAs. To be made before its weights are laid out."""

    def __init__(self, network: WanTransformer, parts: Sequence[WeightPart], device: torch.device) -> None:
        """Prepare a network; `device` computes."""
        self._parts, self._device = parts, device
        self.places = dict(_places(network))
        self._names = {part.name: _names_in(part, self.places) for part in parts}
        self._on_the_fly: dict[str, Adapter] = {}
        self._merged: dict[str, Adapter] = {}  # where weights come from the host, to be merged each time
        self._there: dict[str, Adapter] = {}  # of those, what is on the device while a stage runs
        self._changed: set[str] = set()  # where all weights lie on the device, what is not as it was loaded

    def switch_on_host(self, loras: Sequence[Adapters], source: WeightSource) -> list[Applied]:
        """Switch weights that come from a source to these LoRAs, and no others."""
        self.take_up({}, {})
        adapters = _together(loras)
        found = _Found(loras)
        for part in self._parts:
            if names := [name for name in self._names[part.name] if name in adapters]:
                if not source.holds(part):
                    source.flat(part)
                for name in names:
                    found.add(name, *self._way(name, adapters[name]))
                source.bind([part])
        self.take_up(adapters, found.ways)
        return found.applied

    def switch_on_device(self, loras: Sequence[Adapters], refill: Refill) -> list[Applied]:
        """Switch weights that lie on the device, all of them, to these LoRAs and no others.

        `refill` fills them as they were loaded. After an error they are restored by the next switch.
        """
        self._on_the_fly = {}
        adapters = _together(loras)
        found = _Found(loras)
        for part in self._parts:
            names = [name for name in self._names[part.name] if name in adapters]
            touched = self._restore(part, names, refill)
            for name in names:
                adapter = adapters[name]
                found.add(name, *self._way(name, adapter))
                if found.ways[name] != MERGED:
                    self._on_the_fly[name] = adapter
                    continue
                self._changed.add(name)
                adapter.to(self._device).merge_(self.places[name].view)
            for module in touched:
                if module.weight.numel():
                    module.lay_out()
        return found.applied

    def take_up(self, adapters: Adapters, ways: Mapping[str, str]) -> None:
        """Add these LoRAs to weights that come from the host, each in its way, and no others."""
        self._merged = {name: each for name, each in adapters.items() if ways[name] == MERGED}
        self._on_the_fly = {name: each for name, each in adapters.items() if ways[name] != MERGED}
        for part in self._parts:
            names = [name for name in self._names[part.name] if name in self._merged]
            part.change = partial(self._merge, names) if names else None

    @contextmanager
    def at_work(self, parts: Iterable[WeightPart]) -> Iterator[None]:
        """Keep the additions to these parts on the device within this context."""
        names = [name for part in parts for name in self._names[part.name]]
        added = [(self._linear(name), self._added(name)) for name in names if name in self._on_the_fly]
        self._there = {name: self._merged[name].to(self._device) for name in names if name in self._merged}
        for linear, each in added:
            linear.added += (each,)
        try:
            yield
        finally:
            self._there = {}
            for linear, _ in added:
                linear.added = ()

    def _added(self, name: str) -> OnTheFly:
        dtype, first_row = self._linear(name).weight.dtype, self.places[name].first_row
        return self._on_the_fly[name].to(self._device).on_the_fly(first_row, dtype)

    def _merge(self, names: Iterable[str]) -> None:
        """Change the weights of these names, which are on the device."""
        for name in names:
            adapter = self._there[name] if name in self._there else self._merged[name].to(self._device)
            adapter.merge_(self.places[name].view)

    def _restore(self, part: WeightPart, names: Iterable[str], refill: Refill) -> set[Linear]:
        """Restore weights of a part as they were loaded.

        They are the changed ones, and of these names those that lie in another layout. Returns linear maps that may
        have to be laid out.
        """
        own = self._names[part.name]
        stale = {name for name in own if name in self._changed}
        touched = stale.union(names)
        packed = {self.places[name].module for name in touched if not self.places[name].parameter.numel()}
        stale |= {name for name in own if self.places[name].name == "weight" and self.places[name].module in packed}
        self._changed |= stale
        maps = {module for name in touched if isinstance(module := self.places[name].module, Linear)}
        for module in maps & packed:
            module.forget_layout()
            plain = module.weight.new_empty(module.out_features, module.in_features)
            module.weight = nn.Parameter(plain, requires_grad=False)
        if stale:
            refill(SomeSlots(self.places, frozenset(stale)))
            self._changed -= stale
        return maps

    def _way(self, name: str, adapter: Adapter) -> tuple[str, Tensor, Excerpt]:
        """Way to apply additions to a weight, and an excerpt of that weight in float32 on the host."""
        place = self.places[name]
        rows = as_rows(place.view)
        excerpt = excerpt_of(rows)
        some = rows[excerpt.rows].cpu()
        if place.name in HELD:
            assert not adapter.has_whole, "files with differences of such weights are refused"
            scale = self.places[scale_of(name)].view
            return EIGHT_BIT, widened(some, scale[excerpt.rows].cpu())[:, excerpt.columns], excerpt
        base, dtype = some[:, excerpt.columns].float(), rows.dtype
        is_small = dtype != torch.float32 and not adapter.has_whole and adapter.lost(base, excerpt, dtype) > MOST_LOST
        return SMALL if is_small else MERGED, base, excerpt

    def _linear(self, name: str) -> Linear:
        module = self.places[name].module
        assert isinstance(module, Linear), "products are added to linear maps alone"
        return module


def _together(loras: Sequence[Adapters]) -> dict[str, Adapter]:
    """Sums of the additions of several LoRAs, by weight."""
    names = dict.fromkeys(name for lora in loras for name in lora)
    return {name: joined(lora[name] for lora in loras if name in lora) for name in names}


def reported(lora: Lora, file: LoraFile, applied: Sequence[Applied]) -> LoraReport:
    """Report on a LoRA that experts have taken up."""
    ways = sum((each.ways for each in applied), Counter[str]())
    how = next(iter(ways)) if len(ways) == 1 else ", ".join(f"{count} {way}" for way, count in ways.most_common())
    return LoraReport(
        name=lora.name,
        sha256=file.sha256[:SHOWN_DIGITS],
        strength=lora.strength,
        target=lora.target or "both",
        told="; ".join(filter(None, (file.told, file.left_out))),
        how=how,
        largest=max(each.largest for each in applied),
    )


def _places(network: WanTransformer) -> Iterator[tuple[str, TensorPlace]]:
    """Yield the location of each tensor of the checkpoint, by its name in networks/naming."""
    for path, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}" if path else key
            for stored, slot in transformer_slots(name, parameter.data, network.spec).items():
                yield stored, TensorPlace(module, key, slot.storage_offset() - parameter.storage_offset(), slot.shape)


def _names_in(part: WeightPart, places: Mapping[str, TensorPlace]) -> list[str]:
    """The checkpoint's names for what is in a part."""
    own = {(slot.module, slot.name) for slot in part.slots}
    return [name for name, place in places.items() if (place.module, place.name) in own]
