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
        """Make the form that the kernel wants of the current weights, which may be given up for it."""

    def forget_layout(self) -> None:
        """Drop that form, because other weights will come."""


@runtime_checkable
class Widenable(Protocol):
    """A module that may hold weights in eight bits."""

    def widen(self) -> None:
        """Make the weights that it computes with, beside those in eight bits."""

    def narrow(self) -> None:
        """Free the widened weights."""


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
        """Lay out the run.

        `without`: parameters below the modules that belong to another part. `needs_layout`: results differ in their
        last digits if the modules have not laid out what they compute with.
        """
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
        """Current parameters of the modules."""
        for slot in self.slots:
            yield getattr(slot.module, slot.name)

    def bind(self, flat: Tensor) -> None:
        """Bind the modules' weights to these bytes. Nothing is copied."""
        runs = {dtype: flat.view(dtype) for dtype in dict.fromkeys(slot.dtype for slot in self.slots)}
        for slot in self.slots:
            parameter = nn.Parameter(slot.view(runs[slot.dtype]), requires_grad=False)
            slot.module.register_parameter(slot.name, parameter)

    def unbind(self) -> None:
        """Leave the modules without weights."""
        for slot in self.slots:
            nothing = torch.empty(0, dtype=slot.dtype)
            slot.module.register_parameter(slot.name, nn.Parameter(nothing, requires_grad=False))

    def take_up(self, flat: Tensor) -> None:
        """Bind the modules' weights to these bytes, which are nobody else's.

        They are changed, and laid out as kernels like them, if those know better.
        """
        self.bind(flat)
        if self.change is not None:
            self.change()
        self.lay_out()

    def lay_out(self) -> None:
        """Let the modules lay out what is bound as their kernels like it, if those know better."""
        for module in self._laid_out:
            module.lay_out()

    def give_up_rest(self) -> None:
        """Copy what modules still need beside their layouts, so that all other bytes can be freed."""
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
        """Let the modules widen their weights in eight bits."""
        for module in self._widenable:
            module.widen()

    def narrow(self) -> None:
        """Let the modules free the widened weights."""
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
