"""LocalLauncher: ranks of one replica that are processes of this machine, each reached over a socket pair."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from multiprocessing import Pipe

import msgspec

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidLayout, WorkerError
from ringlight.core.request import RequestLimits
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.launch.launcher import Start
from ringlight.engine.network import address_towards, knock, listen_for_nodes
from ringlight.engine.process import LocalProcess
from ringlight.engine.rank import RankHandle, end_all

KNOCK_EVERY_SECONDS = 0.5


class LocalLauncher:
    """Starts processes on this machine: all of `num_ranks`, or with several nodes this one's share of them.

    `first_device` is the first GPU of this machine that they take; with `memory` their weights lie there. With
    `scratch` rank 0 works in that folder, as on a machine that has none of our files.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits,
        num_ranks: int = 1,
        *,
        first_device: int = 0,
        memory: HostMemory | None = None,
        scratch: str = "",
    ) -> None:
        self._config = config
        self._limits = limits
        self._num_ranks = num_ranks
        self._first_device = first_device
        self._memory = memory
        self._scratch = scratch

    def launch(self, start: Start) -> list[RankHandle]:
        address = self._await_node_0(start)
        ranks: list[RankHandle] = []
        with contextlib.ExitStack() as listening:
            try:
                for place in self._places(address, listening):
                    ranks.append(self._start_rank(place, start.checkpoint))
            except BaseException:
                end_all(ranks)
                raise
        return ranks

    def end(self) -> None:
        """Do nothing: of a process that has ended nothing is left."""

    def _start_rank(self, place: messages.RankPlace, checkpoint: str) -> RankHandle:
        setup = messages.WorkerSetup(config=self._config, limits=self._limits, place=place, checkpoint=checkpoint)
        ours, theirs = Pipe()
        with theirs:
            arguments = [str(theirs.fileno()), msgspec.json.encode(setup).decode()]
            return RankHandle(place, ours, LocalProcess(arguments, [theirs.fileno(), *place.inherited], place))

    def _await_node_0(self, start: Start) -> str:
        """Wait for node 0 and return this machine's address as node 0 sees it; on other nodes wait until it listens.

        A machine that starts need not have a name yet. Raises InvalidLayout where it is in vain to wait for that: on
        node 0 itself, where nobody serves.
        """
        nodes = self._config.nodes
        if nodes.nnodes == 1:
            return "127.0.0.1"
        host, port = nodes.host_and_port
        while True:
            try:
                address = address_towards(host, port)
                if nodes.node_rank > 0:
                    knock(host, port)
                return address
            except OSError as error:
                problem = error.strerror or str(error)
            if nodes.node_rank == 0 and not nodes.refuses_alone:
                raise InvalidLayout(f"dist-init-addr {nodes.dist_init_addr} cannot be reached: {problem}")
            start.waiting.say(f"node 0 at {nodes.dist_init_addr}", problem)
            start.pause(KNOCK_EVERY_SECONDS)

    def _places(self, address: str, listening: contextlib.ExitStack) -> Iterator[messages.RankPlace]:
        """Yield the place of each rank on this machine. Ranks meet at a socket that we listen on, or node 0 does."""
        nodes = self._config.nodes
        num_local = self._num_ranks // nodes.nnodes
        host, port, listener = "127.0.0.1", 0, -1
        if nodes.nnodes > 1:
            host, port = nodes.host_and_port
        if nodes.node_rank == 0 and self._num_ranks > 1:
            server = listening.enter_context(self._listen_for_ranks(host, port))
            port, listener = server.getsockname()[1], server.fileno()
        for local_rank in range(num_local):
            rank = nodes.node_rank * num_local + local_rank
            yield messages.RankPlace(
                rank=rank,
                num_ranks=self._num_ranks,
                local_rank=local_rank,
                num_local=num_local,
                address=address,
                host=host,
                port=port,
                listener=listener if rank == 0 else -1,
                first_device=self._first_device,
                shelf=-1 if self._memory is None else self._memory.descriptor,
                num_sharing=1 if self._memory is None else self._memory.num_ranks,
                scratch=self._scratch if rank == 0 else "",
            )

    def _listen_for_ranks(self, host: str, port: int) -> socket.socket:
        if self._config.nodes.nnodes == 1:
            return socket.create_server((host, port), backlog=self._num_ranks)
        try:
            return listen_for_nodes(port)
        except PermissionError as error:
            raise InvalidLayout(f"dist-init-addr: cannot listen on port {port}: {error.strerror}") from None
        except OSError as error:
            raise WorkerError(
                f"node 0 cannot listen on port {port}: {error.strerror}; end what has it, such as another node 0, or "
                "name another port in --dist-init-addr on every node"
            ) from None
