"""Engines on two nodes, both of them here: who is waited for, who is refused, and what the others do meanwhile.

The ranks are forked (`faults`), which takes a start's time down to that of loading.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig, NodesConfig, RequestLimits
from ringlight.core.errors import InvalidLayout, WorkerError
from ringlight.core.layout import AskedLayout
from ringlight.engine import process
from ringlight.engine.host_memory import HostMemory
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.engine.faults import fork_rank
from tests.engine.processes import wait_until
from tests.engine.requests import endless, small

REFUSED = "ranks disagree about checkpoint"


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where two nodes of forked ranks meet, for which nobody listens yet."""
    monkeypatch.setattr(process, "launch", fork_rank)
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Node:
    """The engine of one of two nodes. Node 0 is supervised, as a server's is, and node 1 follows it."""

    def __init__(self, folder: Path, address: str, node_rank: int, **changes: Any) -> None:
        nodes = NodesConfig(nnodes=2, node_rank=node_rank, dist_init_addr=address, refuses_alone=True)
        config = EngineConfig(
            model_path=str(folder),
            device="cpu",
            num_threads=1,
            asked_layout=AskedLayout(num_gpus=2, ring_degree=2),
            watchdog_timeout=2.0,
            nodes=nodes,
            **changes,
        )
        memory = HostMemory() if config.memory_budget_bytes else None
        self.replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks=2, memory=memory))
        self.engine = Engine(config, replica=self.replica, supervised=node_rank == 0)

    @property
    def status(self) -> str:
        """Of its replica."""
        (state,) = self.engine.replicas
        return state.status

    @contextlib.contextmanager
    def following(self) -> Iterator[Future[None]]:
        """It hosts its rank in a thread, until node 0 ends or the block does."""
        with ThreadPoolExecutor(1) as pool, self.engine:
            future = pool.submit(self.engine.follow)
            yield future
            self.engine.close()


@pytest.mark.slow
def test_the_right_node_is_waited_for_and_others_are_refused_alone(tiny: Path, tmp_path: Path, address: str) -> None:
    """At the first start, and again after ranks were lost. A node that is lost is called by its name."""
    other = tmp_path / "other"
    DEMO.write(other, "tiny", seed=1)
    first = Node(tiny, address, 0)
    with first.engine as engine:
        engine.start(wait=False)
        for start in range(2):
            wait_until(lambda: engine.awaited)
            assert str(engine.awaited).startswith(f"waiting for node 1 of 2 at {address}, ")
            with Node(other, address, 1).following() as stranger, pytest.raises(InvalidLayout, match=REFUSED):
                stranger.result()
            wait_until(lambda: engine.awaited is not None and REFUSED in engine.awaited.remark)
            if start == 0:
                assert (first.status, engine.failure) == ("starting", None)
            else:
                assert first.status == "lost" and "node 1 (127.0.0.1) is lost" in str(engine.failure)
            second = Node(tiny, address, 1)
            with second.following() as follower:
                wait_until(lambda: first.status == "ready")
                assert engine.awaited is None
                if start == 0:
                    job = engine.submit(endless(engine), str(tmp_path / "film.npy"))
                    wait_until(lambda: job.state.step)  # noqa: B023 (called at once)
                    os.kill(second.replica.pids[0], signal.SIGKILL)
                    with pytest.raises(WorkerError, match=r"rank 1: the worker process died \(signal 9\)"):
                        follower.result()
                    with pytest.raises(WorkerError, match=r"^node 1 \(127\.0\.0\.1\) is lost: its rank 1 no longer"):
                        job.wait(60)
                else:
                    engine.close()
                    follower.result()


@pytest.mark.slow
def test_a_budget_is_that_of_all_nodes(tiny: Path, tmp_path: Path, address: str) -> None:
    """Each machine has a copy of the weights, and jobs run by one plan; a node that has its own is refused."""
    within = {"memory_budget": "1MiB", "memory_check": False}
    first, second = Node(tiny, address, 0, **within), Node(tiny, address, 1, **within)
    with first.engine as engine:
        engine.start(wait=False)
        wait_until(lambda: engine.awaited)
        said = (
            r"^ranks disagree about memory-budget 1048576 on rank 0, 0 on rank 1; weights "
            r"\(--memory-budget says where\) on the host on rank 0, on the device on rank 1; give every node the same"
        )
        with Node(tiny, address, 1).following() as stranger, pytest.raises(InvalidLayout, match=said):
            stranger.result()
        with second.following() as follower:
            report = engine.submit(small(engine), str(tmp_path / "film.npy")).wait(60)
            engine.close()
            follower.result()
    assert report.placement is not None
    assert [rank.weights is not None for rank in report.ranks] == [True, True]


def test_node_0_is_waited_for_by_name_and_by_address(tiny: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows yet, then an address where nobody listens yet: both are said, and no rank is started."""

    def find_nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    node = Node(tiny, address, 1)
    with node.engine as engine, pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(socket, "getaddrinfo", find_nothing)
        watched = pool.submit(engine.follow)
        wait_until(lambda: engine.awaited)
        assert str(engine.awaited) == f"waiting for node 0 at {address}, 0 s; Name or service not known"
        patch.undo()
        wait_until(lambda: engine.awaited is not None and engine.awaited.remark == "Connection refused")
        assert node.replica.pids == []
        engine.close()
        with pytest.raises(WorkerError, match="the engine is closed"):
            watched.result()


def test_a_start_that_takes_too_long_says_what_it_has_waited_for(tiny: Path, address: str) -> None:
    with Node(tiny, address, 1, startup_timeout=0.2).engine as engine, pytest.raises(WorkerError) as caught:
        engine.follow()
    told = f"not all nodes were there after 0.2 s: waiting for node 0 at {address}, 0 s; Connection refused; "
    assert str(caught.value).replace("1 s", "0 s") == f"{told}--startup-timeout gives them longer"


def test_a_port_that_another_program_has(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with Node(tiny, f"127.0.0.1:{taken}", 0).engine as engine:
            engine.start(wait=False)
            wait_until(lambda: engine.failure)
            assert isinstance(engine.failure, WorkerError)  # it may be let go: nothing is hopeless
            assert f"node 0 cannot listen on port {taken}: Address already in use" in str(engine.failure)


def test_node_0_of_a_single_video_does_not_wait_for_its_own_name(tiny: Path) -> None:
    nodes = NodesConfig(nnodes=2, dist_init_addr="nowhere.invalid:29500")
    config = EngineConfig(model_path=str(tiny), asked_layout=AskedLayout(num_gpus=2), nodes=nodes)
    with Engine(config) as engine, pytest.raises(InvalidLayout, match=r"dist-init-addr nowhere\.invalid:29500 cannot"):
        engine.start()
