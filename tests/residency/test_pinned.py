"""Page-locked memory, with CUDA's calls in the place of CUDA."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from enum import Enum
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ringlight.residency import pinned
from ringlight.residency.part import WeightPart
from ringlight.residency.pinned import PORTABLE, PinnedMemory
from ringlight.residency.shelf import Shelf

DEVICE = torch.device("cuda:0")
ODD_SIZE = 5 * 2**20 + 4096 + 12


class CudaError(Enum):
    """As torch gives CUDA's codes."""

    success = 0
    out_of_memory = 2


class Cuda:
    """What CUDA is asked to page-lock, by the thread that asks."""

    cudaError = CudaError  # noqa: N815

    def __init__(self, code: CudaError) -> None:
        self.code = code
        self.locked: dict[int, int] = {}
        self.threads: set[int] = set()

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> CudaError:  # noqa: N802
        assert flags == PORTABLE
        self.threads.add(threading.get_ident())
        if self.code is CudaError.success:
            self.locked[address] = num_bytes
        return self.code

    def cudaHostUnregister(self, address: int) -> CudaError:  # noqa: N802
        self.threads.add(threading.get_ident())
        del self.locked[address]
        return CudaError.success

    def cudaGetErrorString(self, code: CudaError) -> str:  # noqa: N802
        return code.name.replace("_", " ")


@pytest.fixture
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A CUDA that answers `code`."""
    made = Cuda(getattr(request, "param", CudaError.success))
    there = SimpleNamespace(cudart=lambda: made, set_device=lambda device: None)
    monkeypatch.setattr(pinned.torch, "cuda", there)
    yield made
    assert threading.get_ident() not in made.threads, "an error would stay with this thread's next kernel"


def test_one_registration_of_exactly_the_size(cuda: Cuda) -> None:
    memory = PinnedMemory(ODD_SIZE, DEVICE, ODD_SIZE)
    assert memory.is_pinned
    assert len(memory.bytes) == ODD_SIZE
    assert cuda.locked == {memory.bytes.data_ptr(): ODD_SIZE}
    memory.bytes[-12:].view(torch.float32).fill_(1.5)
    memory.close()
    memory.close()
    assert not cuda.locked
    assert memory.bytes[-4:].view(torch.float32).item() == 1.5, "the memory lives as long as somebody has it"


def test_what_is_dropped_is_given_back(cuda: Cuda) -> None:
    memory = PinnedMemory(4096, DEVICE, 4096)
    assert cuda.locked
    del memory
    assert not cuda.locked


@pytest.mark.parametrize("cuda", [CudaError.out_of_memory], indirect=True)
def test_where_it_fails_the_log_says_so(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        memory = PinnedMemory(ODD_SIZE, DEVICE, ODD_SIZE)
    assert not memory.is_pinned
    assert "could not be page-locked (out of memory)" in caplog.text
    memory.bytes.fill_(7)
    memory.close()


def test_no_more_than_may_be_is_locked(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        memory = PinnedMemory(ODD_SIZE, DEVICE, ODD_SIZE - 1)
    assert not memory.is_pinned and not cuda.locked
    assert "would leave too little" in caplog.text
    memory.bytes.fill_(7)
    memory.close()


@pytest.mark.parametrize(("most", "num_parts"), [(0, 0), (2**16 + 4032, 1), (2**16 + 4096 + 4031, 1), (2**20, 3)])
def test_a_shelf_is_locked_as_far_as_the_bound_goes(cuda: Cuda, most: int, num_parts: int) -> None:
    """Whole parts, from the first on."""
    parts = [WeightPart(str(number), [nn.Linear(1000, 1, bias=False)]) for number in range(3)]
    shelf = Shelf(parts)
    shelf.pin(DEVICE, most)
    assert not cuda.locked, "what is not filled would be allocated"
    shelf.fill_once(parts, lambda: None)
    shelf.pin(DEVICE, most)
    ends = [shelf.flat(part).data_ptr() + part.num_bytes for part in parts]
    assert [address + size for address, size in cuda.locked.items()] == ends[:num_parts][-1:]
    assert shelf.pinned_bytes == sum(cuda.locked.values()) <= most
    del shelf
    assert not cuda.locked
