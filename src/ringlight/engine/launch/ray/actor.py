"""RankActor: a process on a node, from when Ray starts it until it is a rank. Light: torch is imported by the rank."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import tempfile

import msgspec
import ray

from ringlight.core import messages
from ringlight.core.config import go_on_in
from ringlight.core.host import cores_each
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.launch.ray.door import Address, enter
from ringlight.engine.network import address_towards
from ringlight.engine.process import rank_environment

WORKER = "ringlight.worker.ray"
STDERR = "/proc/self/fd/2"


class Seat(msgspec.Struct, frozen=True):
    """Location of a process: its node, the node's address as the engine sees it, and its cards by Ray's names.

    Its output goes to the file `log` of the node, and it may work in the folder `scratch` there.
    """

    node: str
    address: str
    devices: tuple[str, ...]
    pid: int
    log: str
    scratch: str

    @property
    def order(self) -> tuple[str, str, tuple[tuple[int, str], ...], int]:
        """Sort key: by node, then by card."""
        cards = tuple((int(card) if card.isdecimal() else 0, card) for card in self.devices)
        return self.address, self.node, cards, self.pid


class RankActor:
    """Process of one rank.

    Its methods are called in this order: `seat`; `meeting` of rank 0, `shelf` of the first of a node; `serve`.
    """

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._memory: HostMemory | None = None

    def seat(self, engine: tuple[str, int]) -> bytes:
        """Encode the Seat of this process, as an engine that listens at this address sees it."""
        context = ray.get_runtime_context()
        devices = tuple(map(str, context.get_accelerator_ids().get("GPU", ())))
        address, log, scratch = address_towards(*engine), os.readlink(STDERR), tempfile.gettempdir()
        return msgspec.json.encode(Seat(context.get_node_id(), address, devices, os.getpid(), log, scratch))

    def meeting(self, host: str, num_ranks: int) -> int:
        """Listen at the meeting point of the ranks. Returns the port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=num_ranks)
        port: int = self._listener.getsockname()[1]
        return port

    def shelf(self) -> str:
        """Create memory for one copy of the weights on this node. Returns a path that other ranks of it can open."""
        self._memory = HostMemory()
        return f"/proc/{os.getpid()}/fd/{self._memory.descriptor}"

    def serve(self, setup: bytes, door: bytes, shelf: str, devices: str, folder: str) -> None:
        """Run as the rank of a WorkerSetup, with these devices of the node, over the door's Address.

        Relative paths are those of the engine's folder, if the node has it.
        """
        told = msgspec.json.decode(setup, type=messages.WorkerSetup)
        place = msgspec.structs.replace(
            told.place,
            listener=-1 if self._listener is None else self._listener.fileno(),
            shelf=os.open(shelf, os.O_RDWR) if shelf else -1,
        )
        with contextlib.suppress(FileNotFoundError):
            os.chdir(folder)
        # Ray shows a process its own card alone, and counts threads by what it has been given of the CPUs.
        num_threads = told.config.num_threads or cores_each(place.num_local)
        own = {"CUDA_VISIBLE_DEVICES": devices, "OMP_NUM_THREADS": str(num_threads)}
        go_on_in(rank_environment(place) | own)
        # Before torch is there: the engine need not wait for an import to hear that a rank has come.
        connection = enter(msgspec.json.decode(door, type=Address), place.rank, told.config.watchdog_timeout)
        worker = importlib.import_module(WORKER)
        worker.serve(msgspec.structs.replace(told, place=place), connection)
