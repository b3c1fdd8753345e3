"""What every launcher owes an engine: its ranks make the right video, their ends are seen, and none outlives it.

The ranks of Ray are actors of a real cluster: a head without CPUs and two nodes with one each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringlight import Engine, EngineConfig
from ringlight.core.cluster import ClusterConfig
from ringlight.core.errors import InvalidInstallation
from ringlight.core.layout import AskedLayout
from ringlight.engine import site
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.ranked import RankedReplica
from tests.engine.processes import ends, is_alive, wait_until
from tests.engine.ray_nodes import RayNodes, ray_cluster
from tests.engine.requests import small

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
WATCHDOG_SECONDS = 3.0
PATIENCE = 120.0
FILM: dict[str, Any] = {"width": 64, "num_inference_steps": 40}
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


class Stand:
    """An engine of two ranks in a ring, and what it makes."""

    def __init__(self, tiny: Path, folder: Path, cluster: ClusterConfig, **changes: Any) -> None:
        settings: dict[str, Any] = {"asked_layout": AskedLayout(num_gpus=2, ring_degree=2)} | changes
        self.config = EngineConfig(
            model_path=str(tiny),
            device="cpu",
            num_threads=1,
            num_slices=1,  # link speeds decide otherwise, and are measured anew at each start
            watchdog_timeout=WATCHDOG_SECONDS,
            cluster=cluster,
            **settings,
        )
        self.engine = Engine(self.config, supervised=True)
        self._folder = folder
        self._number = 0
        self._calm = b""

    @property
    def replica(self) -> RankedReplica:
        (runner,) = self.engine._runners
        assert isinstance(runner.replica, RankedReplica)
        return runner.replica

    @property
    def pids(self) -> list[int]:
        return self.replica.pids

    def submit(self, on_change: Callable[[Job], None] = lambda job: None, **fields: Any) -> Job:
        self._number += 1
        keep = Keep(state_file=str(self._folder / f"{self._number}.state"), save_seconds=0.05)
        request, output = small(self.engine, **FILM | fields), str(self._folder / f"{self._number}.npy")
        return self.engine.submit(request, output, on_change, submission=Submission(keep=keep))

    def frames(self, job: Job) -> bytes:
        """What a job has made, once it has."""
        job.wait(PATIENCE)
        return Path(job.output).read_bytes()

    def calm(self) -> bytes:
        """The film that nothing disturbs."""
        self._calm = self._calm or self.frames(self.submit())
        return self._calm

    def disturbed(self, disturb: Callable[[], None]) -> Job:
        """The same film, disturbed once it has been saved in the middle."""
        done: list[int] = []

        def look(job: Job) -> None:
            if job.state.saved_step >= 10 and not done:
                done.append(job.state.step)
                disturb()

        job = self.submit(look)
        assert self.frames(job) == self.calm()
        assert done[0] < FILM["num_inference_steps"]
        return job


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_cluster(1, 1) as nodes:
        yield nodes


@pytest.fixture(scope="module", params=["local", "ray"])
def stand(tiny: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stand]:
    if request.param == "ray":
        request.getfixturevalue("nodes")
    stand = Stand(tiny, tmp_path_factory.mktemp(request.param), ClusterConfig(engine=request.param))
    with stand.engine:
        stand.engine.start()
        yield stand


def test_two_ranks_make_what_one_makes(stand: Stand, engine: Engine, tmp_path: Path) -> None:
    assert [is_alive(pid) for pid in stand.pids] == [True, True]
    engine.submit(small(engine, **FILM), str(tmp_path / "one.npy")).wait(PATIENCE)
    job = stand.submit()
    stand.frames(job)
    assert np.abs(np.load(job.output) - np.load(tmp_path / "one.npy")).max() < TOLERANCE


def test_a_rank_that_is_killed_is_the_cause_and_its_job_is_resumed(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    stand.calm()
    before = stand.pids
    with caplog.at_level(logging.WARNING):
        job = stand.disturbed(lambda: os.kill(before[1], signal.SIGKILL))
    assert job.state.deaths == 1
    (said,) = [record.getMessage() for record in caplog.records if "will be repeated" in record.getMessage()]
    assert re.search(r"rank 1: the worker process .*died .*its log .*says more", said)
    assert all(map(ends, before)) and not {*before} & {*stand.pids}


def test_ranks_that_are_stopped_are_found_by_their_silence(stand: Stand) -> None:
    """Both at once, so that neither tells of the other."""
    stand.calm()
    before = stand.pids

    def stop() -> None:
        for pid in before:
            os.kill(pid, signal.SIGSTOP)

    assert stand.disturbed(stop).state.deaths == 1
    assert all(map(ends, before))


ON_RAY = pytest.mark.parametrize("stand", ["ray"], indirect=True)


@ON_RAY
def test_what_has_no_room_says_so_until_a_node_is_there(
    stand: Stand, nodes: RayNodes, tiny: Path, tmp_path: Path
) -> None:
    """Jobs wait meanwhile. On one node all ranks have one copy of the weights."""
    cluster = ClusterConfig(engine="ray", placement_timeout=0.5)
    other = Stand(tiny, tmp_path, cluster, memory_budget="1GiB")
    with other.engine as engine:
        job = other.submit()
        wait_until(lambda: engine.failure)
        (state,) = engine.replicas
        assert (state.status, job.state.status) == ("lost", "queued")
        free = r"0 CPU on [\d.]+; 0 CPU on [\d.]+"
        wanted = "2 ranks on 2 nodes with 1 CPU each"
        assert re.match(
            rf"the cluster has no room for {wanted}; free: {free}\. It does not grow by itself", state.problem
        )
        nodes.add(2)
        assert other.frames(job) == stand.calm()
        assert engine.failure is None
        assert [rank.weights is not None for rank in job.wait(0).ranks] == [True, True]


@ON_RAY
def test_a_rank_whose_raylet_is_gone_ends_its_job_and_makes_way(
    stand: Stand, nodes: RayNodes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """To one of the nodes that are left, which has room for both."""
    before = stand.pids
    job = stand.disturbed(lambda: nodes.kill_raylet_of(before[0]))
    assert job.state.deaths == 0
    wait_until(lambda: not stand.replica.is_ready())
    assert "makes way once it has nothing in hand: the raylet on" in caplog.text
    job = stand.submit()
    assert stand.frames(job) == stand.calm()
    assert job.state.deaths == 0 and all(map(ends, before)) and not {*before} & {*stand.pids}
    assert capfd.readouterr().out == ""  # Ray has noticed too


def test_no_rank_outlives_its_engine(stand: Stand) -> None:
    before = stand.pids
    stand.engine.close()
    assert all(map(ends, before))


SERVER = """
import sys, time
from ringlight import Engine, EngineConfig
from ringlight.core.cluster import ClusterConfig
from ringlight.core.errors import InvalidInstallation

engine = Engine(EngineConfig(model_path=sys.argv[1], num_threads=1, cluster=ClusterConfig(engine="ray")))
request = engine.request("a cat", width=256, height=160, num_frames=5, num_inference_steps=1000)
job = engine.submit(request, sys.argv[2])
while not (job.state.step or job.state.is_over):
    time.sleep(0.01)
print(job.state.step, "torch" in sys.modules, flush=True)
time.sleep(600)
"""
GENERATE = "from ringlight.cli.main import main; main()"


@ON_RAY
def test_ranks_end_with_the_command_that_has_them(stand: Stand, nodes: RayNodes, tiny: Path, tmp_path: Path) -> None:
    """One that is killed, and one that is interrupted. The first has no torch."""
    stand.engine.close()
    asked = [
        "--engine",
        "ray",
        "--num-threads",
        1,
        "--size",
        "256x160",
        "--num-frames",
        5,
        "--num-inference-steps",
        1000,
    ]
    film = ["--model-path", tiny, "--prompt", "a cat", "--output", tmp_path / "film.mp4", *asked]
    with contextlib.ExitStack() as running:
        killed, interrupted = (
            running.enter_context(subprocess.Popen([sys.executable, "-c", *map(str, command)], **PIPES))
            for command in ([SERVER, tiny, tmp_path / "other.mp4"], [GENERATE, "generate", *film])
        )
        for each in (killed, interrupted):
            running.callback(each.kill)
        assert killed.stdout is not None and interrupted.stderr is not None
        assert killed.stdout.readline().split()[1] == "False"
        assert any("Denoising" in line for line in interrupted.stderr)
        ranks = nodes.ranks()
        assert len(ranks) == 2
        killed.kill()
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(PATIENCE) == 130
        assert all(map(ends, ranks))
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_not_there(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-c", GENERATE, "serve", "--model-path", str(tiny), "--engine", "ray", "--dry-run"]
    done = subprocess.run([*command, "--ray-address", address], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 3
    why = rf"--ray-address {address}: no Ray cluster lets us in \(ConnectionRefusedError: .*\); a raylet of it must run"
    assert re.fullmatch(rf"ringlight: invalid_setting: {why} on this machine .*RAY_AUTH_TOKEN\n", done.stderr)


def test_an_installation_without_ray(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(model_path=str(tiny), cluster=ClusterConfig(engine="ray"))
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    with pytest.raises(InvalidInstallation, match=r"Ray, which is not installed; `pip install 'ringlight\[ray\]'`"):
        Engine(config)
