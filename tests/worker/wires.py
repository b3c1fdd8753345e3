"""Ranks that are spoken to over their sockets, as the engine does. They fail, and wait, where a prompt says so."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from ringlight.core import messages
from ringlight.core.config import EngineConfig, worker_environment
from ringlight.core.request import RequestLimits
from ringlight.engine.host_memory import HostMemory
from tests.engine.faults import fork_rank
from tests.forking import Forked


class Wire:
    """Our end of the socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, *sent: messages.ToWorker) -> None:
        for message in sent:
            self._connection.send_bytes(messages.encode(message))

    def send_raw(self, content: bytes) -> None:
        self._connection.send_bytes(content)

    def receive(self) -> messages.FromWorker:
        assert self._connection.poll(60)
        return messages.from_worker_decoder.decode(self._connection.recv_bytes())

    def close(self) -> None:
        self._connection.close()

    def receive_job(self, job_id: str) -> list[messages.FromWorker]:
        """All messages of a job, to its end."""
        received = [self.receive()]
        while not isinstance(received[-1], (messages.JobCompleted, messages.JobFailed)):
            received.append(self.receive())
        assert {message.job_id for message in received} == {job_id}
        return received


def until(wire: Wire, is_it: Callable[[messages.FromWorker], bool]) -> list[messages.FromWorker]:
    """All messages up to the one that is asked for."""
    received = [wire.receive()]
    while not is_it(received[-1]):
        received.append(wire.receive())
    return received


@contextmanager
def started(
    model_path: Path,
    warm_up: bool = False,
    num_ranks: int = 1,
    memory: HostMemory | None = None,
    scratch: str = "",
    **settings: object,
) -> Iterator[tuple[Forked, Wire]]:
    """Ranks that are ready; the first one, and the wire to it. `memory`: where they keep one copy of their weights.
    `scratch`: where the first one works."""
    config = EngineConfig(model_path=str(model_path), device="cpu", num_threads=1, warm_up=warm_up, **settings)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        shelf = -1 if memory is None else memory.descriptor
        processes, wires = [], []
        for rank in range(num_ranks):
            ours, theirs = Pipe()
            place = messages.RankPlace(
                rank=rank,
                num_ranks=num_ranks,
                local_rank=rank,
                num_local=num_ranks,
                port=server.getsockname()[1],
                listener=server.fileno() if rank == 0 and num_ranks > 1 else -1,
                shelf=shelf,
                num_sharing=num_ranks,
                scratch=scratch if rank == 0 else "",
            )
            setup = msgspec.json.encode(messages.WorkerSetup(config=config, limits=RequestLimits(), place=place))
            wires.append(Wire(stack.enter_context(ours)))
            with theirs:
                inherited = [theirs.fileno(), *place.inherited]
                process = fork_rank([str(theirs.fileno()), setup.decode()], inherited, worker_environment())
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for wire in wires:
            (*_, ready) = until(wire, lambda message: not isinstance(message, messages.NodesAwaited))
            assert isinstance(ready, messages.WorkerReady), ready
        yield processes[0], wires[0]
