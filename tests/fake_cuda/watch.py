"""What operations hold and make: live bytes at their most, the largest tensor, and which operations ran on what."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = ("aten.empty", "aten.new_empty")


@dataclass
class Seen:
    """What a watch has seen, ready to travel.

    `peak_bytes`: the most that was alive of what operations made on the device. `reach`: the elements from the first to
    the last one of an operand of a kernel, at most (of a view they may be more than it has); `widest` says where.
    `dtypes`: of each kernel on the device, the dtypes of its floating-point operands and results.
    """

    peak_bytes: int = 0
    reach: int = 0
    widest: str = ""
    dtypes: dict[str, set[torch.dtype]] = field(default_factory=dict)


class Watch(TorchDispatchMode):
    """Watches every operation within it. To be entered inside the fake mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self._live_bytes = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "prim":  # asks only
            return out
        given, made = _tensors(*args, *(kwargs or {}).values()), _tensors(out)
        name = str(func)
        if not (func.is_view or name.startswith(ALLOCATIONS)):  # no kernel counts their elements
            for tensor in (*given, *made):
                self._note(name, tensor)
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage._cdata not in old:
                self._hold(storage)
        return out

    def _note(self, name: str, tensor: Tensor) -> None:
        reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        if tensor.numel() and reach > self.seen.reach:
            self.seen.reach, self.seen.widest = reach, f"{name} {tuple(tensor.shape)} {tuple(tensor.stride())}"
        if tensor.is_floating_point():
            self.seen.dtypes.setdefault(name, set()).add(tensor.dtype)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = weakref.ref(storage, partial(self._free, key, storage.nbytes()))
            self._live_bytes += storage.nbytes()
            self.seen.peak_bytes = max(self.seen.peak_bytes, self._live_bytes)

    def _free(self, key: int, num_bytes: int, _: object) -> None:
        del self._known[key]
        self._live_bytes -= num_bytes


def _tensors(*values: Any) -> list[Tensor]:
    """Those on the device, also in lists: a few numbers are made on the CPU first."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            if value.is_cuda:
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(*value)
    return found
