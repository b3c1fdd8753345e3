"""The host's copy of weights: one for many processes, filled once, and gone with the last of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from ringlight.core.errors import InvalidCheckpoint
from ringlight.engine.host_memory import HostMemory
from ringlight.residency.part import WeightPart
from ringlight.residency.shelf import Shelf
from tests.engine.sharing import mapped_bytes

SIZE = 1000
SHARED = "/memfd:ringlight weights"


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    made = HostMemory()
    yield made
    made.close()


class Model:
    """Two parts, and their weights on a shelf."""

    def __init__(self, descriptor: int = -1) -> None:
        self.layers = [nn.Linear(SIZE, 1, bias=False).requires_grad_(False) for _ in range(2)]
        self.parts = [WeightPart(f"layer {number}", [layer]) for number, layer in enumerate(self.layers)]
        self.shelf = Shelf(self.parts, descriptor)
        self.shelf.bind(self.parts)

    def fill(self, value: float) -> Callable[[], None]:
        def write() -> None:
            for layer in self.layers:
                layer.weight.fill_(value)

        return write

    @property
    def values(self) -> set[float]:
        return {float(value) for layer in self.layers for value in layer.weight.flatten()}


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A process that does this and ends; killed in the end if it has not."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def ended_well(child: int) -> bool:
    """Whether a process ends well, waited for; it stays to be fetched."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status == 0 and found.si_code == os.CLD_EXITED


def test_one_process_fills_and_the_others_find(memory: HostMemory) -> None:
    """Many at once: each waits until all is there, and one has written it."""

    def load(number: int) -> None:
        model = Model(memory.descriptor)
        assert model.shelf.fill_once(model.parts, lambda: (time.sleep(0.05), model.fill(number + 1.0)())[0])
        assert len(model.values) == 1

    children = [forked(lambda number=number: load(number)) for number in range(4)]
    entered = [child.__enter__() for child in children]
    try:
        assert all(map(ended_well, entered))
    finally:
        for child in children:
            child.__exit__(None, None, None)
    late = Model(memory.descriptor)
    assert late.shelf.fill_once(late.parts, late.fill(9.0))
    (value,) = late.values
    assert value in {1.0, 2.0, 3.0, 4.0}


def test_one_that_is_killed_while_it_fills_is_followed_by_another(memory: HostMemory, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def load() -> None:
        model = Model(memory.descriptor)

        def fill() -> None:
            model.layers[0].weight.fill_(1.0)
            begun.touch()
            signal.pause()

        model.shelf.fill_once(model.parts, fill)

    ours = Model(memory.descriptor)
    with forked(load):
        while not begun.exists():
            time.sleep(0.01)
        assert not ours.shelf.fill_once(ours.parts, ours.fill(2.0), wait=False)  # another one does
    assert ours.shelf.fill_once(ours.parts, ours.fill(2.0))
    assert ours.values == {2.0}


def test_what_fails_is_not_filled() -> None:
    model = Model()

    def fail() -> None:
        raise InvalidCheckpoint("damaged")

    with pytest.raises(InvalidCheckpoint):
        model.shelf.fill_once(model.parts, fail)
    assert model.shelf.fill_once(model.parts, model.fill(3.0))
    assert model.values == {3.0}


def test_nothing_is_left_behind() -> None:
    """No name, no file: where nobody has it any more it is gone, and a descriptor is the only way to it."""

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(SHARED)

    before, files = maps(), {entry.name for entry in Path("/dev/shm").iterdir()}
    model = Model()
    assert maps() == before + 1
    assert {entry.name for entry in Path("/dev/shm").iterdir()} == files
    del model
    assert maps() == before


def test_a_copy_is_one_for_all(memory: HostMemory) -> None:
    """What two processes map is their shared memory, and in neither case their own."""
    shelf = Shelf([WeightPart("all", [nn.Linear(2**22, 1, bias=False)])], memory.descriptor)
    shelf._bytes.fill_(1)
    found = mapped_bytes(os.getpid(), os.fstat(memory.descriptor).st_ino)
    assert found["Rss"] == shelf.num_bytes
    assert found["Anonymous"] == 0
    assert torch.frombuffer(bytearray(os.pread(memory.descriptor, 64, 2**16)), dtype=torch.uint8).tolist() == [1] * 64
