"""What every launcher owes an engine: its ranks make the right video, their ends are seen, and none outlives it.

The ranks of Ray are actors of a real cluster: a head without CPUs and two nodes with one each.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringlight import Engine, EngineConfig
from ringlight.core.cluster import ClusterConfig
from ringlight.core.layout import AskedLayout
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.ranked import RankedReplica
from tests.engine.processes import ends, is_alive
from tests.engine.ray_nodes import RayNodes, ray_cluster
from tests.engine.requests import small

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
WATCHDOG_SECONDS = 3.0
PATIENCE = 120.0
FILM: dict[str, Any] = {"width": 64, "num_inference_steps": 60}


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
            if job.state.saved_step >= 20 and not done:
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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_the_cause_and_its_job_is_resumed(
    stand: Stand, caplog: pytest.LogCaptureFixture, rank: int
) -> None:
    stand.calm()
    before = stand.pids
    with caplog.at_level(logging.WARNING):
        job = stand.disturbed(lambda: os.kill(before[rank], signal.SIGKILL))
    assert job.state.deaths == 1
    (said,) = [record.getMessage() for record in caplog.records if "will be repeated" in record.getMessage()]
    assert f"rank {rank}: the worker process" in said and " died " in said
    assert all(map(ends, before)) and not {*before} & {*stand.pids}


def test_a_rank_that_is_stopped_is_found_by_its_silence(stand: Stand) -> None:
    """Both at once, so that neither tells of the other."""
    stand.calm()
    before = stand.pids

    def stop() -> None:
        for pid in before:
            os.kill(pid, signal.SIGSTOP)

    assert stand.disturbed(stop).state.deaths == 1
    assert all(map(ends, before))


def test_no_rank_outlives_its_engine(stand: Stand) -> None:
    """The last of these tests."""
    before = stand.pids
    stand.engine.close()
    assert all(map(ends, before))
