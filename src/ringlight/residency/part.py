"""WeightPart: weights of a network that come and go together, in one run of bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes between bounds that tensors begin on: a cache line's; CUDA's kernels want 16 at most


@runtime_checkable
class LaidOut(Protocol):
    """A module whose kernel may want weights in another form than they are loaded in."""

    def lay_out(self) -> None:
        """Make that form of the weights that it has now, which may be given up for it."""

    def forget_layout(self) -> None:
        """Drop it, for other weights will come."""


@runtime_checkable
class Widenable(Protocol):
    """A module that may hold weights in eight bits."""

    def widen(self) -> None:
        """Make what it computes with of them, beside them."""

    def narrow(self) -> None:
        """Give it up."""


class Slot(NamedTuple):
    """A parameter of a module, and its place in the run."""

    module: nn.Module
    name: str
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    def view(self, run: Tensor) -> Tensor:
        """The parameter as it lies in a run of its dtype."""
        return run.as_strided(self.shape, self.stride, run.storage_offset() + self.offset // self.dtype.itemsize)


class WeightPart:
    """The parameters of some modules, as one run of bytes that may lie on the host or on a device.

    The modules must have the dtypes that they compute with, on any device. Kernels of convolutions lie as convolutions
    want them, channels last.

    `change` is what is done to the weights, in place, wherever they are to be computed with, None for nothing: what
    they come from stays as it is.
    """

    change: Callable[[], None] | None = None

    def __init__(
        self,
        name: str,
        modules: Iterable[nn.Module],
        without: Collection[nn.Parameter] = (),
        needs_layout: bool = False,
    ) -> None:
        """`without`: parameters below the modules that belong to another part. `needs_layout`: results differ in their
        last digits where the modules have not laid out what they compute with."""
        self.name, self.needs_layout = name, needs_layout
        self.slots: list[Slot] = []
        offset = 0
        left_out = set(without)
        for module in modules:
            for owner in module.modules():
                for key, parameter in owner.named_parameters(recurse=False):
                    if parameter not in left_out:
                        slot = Slot(owner, key, parameter.shape, _stride(parameter), parameter.dtype, offset)
                        self.slots.append(slot)
                        offset += -(-parameter.numel() * parameter.itemsize // ALIGNMENT) * ALIGNMENT
        self.num_bytes = offset

    @property
    def parameters(self) -> Iterator[nn.Parameter]:
        """What the modules have at the moment."""
        for slot in self.slots:
            yield getattr(slot.module, slot.name)

    def bind(self, flat: Tensor) -> None:
        """Let the modules compute with the weights in these bytes. Nothing is copied."""
        runs = {dtype: flat.view(dtype) for dtype in dict.fromkeys(slot.dtype for slot in self.slots)}
        for slot in self.slots:
            parameter = nn.Parameter(slot.view(runs[slot.dtype]), requires_grad=False)
            slot.module.register_parameter(slot.name, parameter)

    def unbind(self) -> None:
        """Let the modules have nothing."""
        for slot in self.slots:
            nothing = torch.empty(0, dtype=slot.dtype)
            slot.module.register_parameter(slot.name, nn.Parameter(nothing, requires_grad=False))

    def take_up(self, flat: Tensor) -> None:
        """Let the modules compute with the weights in these bytes, which are nobody else's: changed, and laid out as
        kernels like them, where they know better."""
        self.bind(flat)
        if self.change is not None:
            self.change()
        self.lay_out()

    def lay_out(self) -> None:
        """Have the modules lay out what is bound as their kernels like it, where they know better."""
        for module in self._laid_out:
            module.lay_out()

    def give_up_rest(self) -> None:
        """Have what modules did not give up for their layouts lie by itself, so that the bytes of the others are free
        where nobody else has them."""
        parameters = list(self.parameters)
        if all(parameter.numel() for parameter in parameters):
            return
        for parameter in parameters:
            parameter.data = parameter.data.clone()

    def forget_layout(self) -> None:
        """Drop what `lay_out` has made. What is bound may be gone with it."""
        for module in self._laid_out:
            module.forget_layout()

    def widen(self) -> None:
        """Have the modules make what they compute with of weights in eight bits."""
        for module in self._widenable:
            module.widen()

    def narrow(self) -> None:
        """Have them give it up."""
        for module in self._widenable:
            module.narrow()

    # Looked for once: a part is taken again in every forward, and a quarter of a small one's time went into asking what
    # its modules can do.

    @cached_property
    def _laid_out(self) -> list[LaidOut]:
        return [module for module in self._owners if isinstance(module, LaidOut)]

    @cached_property
    def _widenable(self) -> list[Widenable]:
        return [module for module in self._owners if isinstance(module, Widenable)]

    @property
    def _owners(self) -> Iterable[nn.Module]:
        return dict.fromkeys(slot.module for slot in self.slots)


def _stride(parameter: Tensor) -> tuple[int, ...]:
    like = torch.empty(parameter.shape, device="meta")
    if like.dim() == 5:
        like = like.contiguous(memory_format=torch.channels_last_3d)
    return like.stride()
