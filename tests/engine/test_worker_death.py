"""Processes that die or are ended: what their jobs say, and that nothing is left of them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core import messages
from ringlight.core.errors import Cancelled, WorkerError
from ringlight.engine import rank
from ringlight.engine.jobs import Job, Submission
from ringlight.engine.launch.launcher import Start
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from tests.engine.processes import ends, is_alive, wait_until
from tests.engine.requests import endless, small

pytestmark = pytest.mark.slow


def engine_of_its_own(tiny: Path, **config: float) -> tuple[Engine, RankedReplica]:
    settings = EngineConfig(model_path=str(tiny), device="cpu", num_threads=1, **config)
    replica = RankedReplica(settings, LocalLauncher(settings, RequestLimits()))
    return Engine(settings, replica=replica), replica


def pid_of(replica: RankedReplica) -> int:
    """The worker's process id, as soon as it has one."""
    wait_until(lambda: replica.pids)
    (pid,) = replica.pids
    return pid


@pytest.fixture(scope="module")
def two_engines(tiny: Path) -> Iterator[list[tuple[Engine, RankedReplica]]]:
    """Two engines whose workers load at the same time; each test that ends one pops it."""
    engines = [engine_of_its_own(tiny) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for engine, _ in engines:
            stack.enter_context(engine)
            engine.start(wait=False)
        yield list(engines)


def test_a_worker_killed_in_the_middle_fails_its_job_and_leaves_no_file(
    two_engines: list[tuple[Engine, RankedReplica]], tmp_path: Path
) -> None:
    engine, replica = two_engines.pop()
    found_at_the_end: list[list[Path]] = []
    killed: list[int] = []

    def kill_while_decoding(job: Job) -> None:
        if job.state.frames_done and not found_at_the_end:
            found_at_the_end.append(list(tmp_path.iterdir()))
            killed.append(pid_of(replica))
            os.kill(killed[0], signal.SIGKILL)

    request = small(engine, width=256, height=160, num_frames=49, num_inference_steps=1)
    first = Submission(priority=1)  # it makes no way
    job = engine.submit(request, str(tmp_path / "film.npy"), kill_while_decoding, submission=first)
    waiting = engine.submit(small(engine), str(tmp_path / "next.npy"))
    with pytest.raises(WorkerError, match=r"died \((signal 9|SIGKILL)"):
        job.wait(60)
    assert len(found_at_the_end[0]) == 1  # it was killed with half a file written
    assert ends(killed[0])
    assert [path.name for path in tmp_path.iterdir() if "film" in path.name] == []
    waiting.wait(60)  # on a worker that was started for it
    assert pid_of(replica) != killed[0]
    engine.submit(small(engine), str(tmp_path / "late.npy")).wait(60)
    assert (tmp_path / "late.npy").read_bytes() == (tmp_path / "next.npy").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"late.npy", "next.npy"}


def test_a_worker_killed_between_jobs_fails_none(
    two_engines: list[tuple[Engine, RankedReplica]], tmp_path: Path
) -> None:
    engine, replica = two_engines[-1]
    engine.start()
    os.kill(pid_of(replica), signal.SIGKILL)
    wait_until(lambda: not replica.is_ready())
    engine.submit(small(engine), str(tmp_path / "film.npy")).wait(60)


def test_closing_in_the_middle_ends_job_and_worker(
    two_engines: list[tuple[Engine, RankedReplica]], tmp_path: Path
) -> None:
    engine, replica = two_engines.pop()
    assert engine.start() is not None
    job = engine.submit(endless(engine), str(tmp_path / "film.npy"))
    waiting = engine.submit(endless(engine), str(tmp_path / "next.npy"))
    while not (job.state.step or job.state.is_over):
        time.sleep(0.01)
    assert is_alive(pid_of(replica))
    engine.close()
    assert not is_alive(pid_of(replica))
    for cancelled in (job, waiting):
        with pytest.raises(Cancelled):
            cancelled.wait(0)
    assert list(tmp_path.iterdir()) == []
    engine.close()


def test_a_worker_that_dies_while_loading_is_an_error_of_start_and_of_jobs(tiny: Path, tmp_path: Path) -> None:
    engine, replica = engine_of_its_own(tiny)
    with engine:
        job = engine.submit(small(engine), str(tmp_path / "film.npy"))
        os.kill(pid_of(replica), signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"died \((signal 9|SIGKILL)"):
            engine.start()
        with pytest.raises(WorkerError, match="died"):
            job.wait(60)


def test_a_worker_that_takes_too_long_to_load_is_ended(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "CLOSE_SECONDS", 0.1)
    engine, replica = engine_of_its_own(tiny, startup_timeout=0.05)
    with engine, pytest.raises(WorkerError, match=r"not ready after 0\.05 s"):
        engine.start()
    assert not is_alive(pid_of(replica))


def test_a_worker_starts_where_stderr_is_no_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks, test runners and graphical programs put an object without a descriptor there."""
    monkeypatch.setattr(rank, "CLOSE_SECONDS", 0.1)
    _, replica = engine_of_its_own(tiny, startup_timeout=0.05)
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(WorkerError, match="not ready"):
        replica.start()
    assert not is_alive(pid_of(replica))


def test_closing_at_once_leaves_no_worker_behind(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "CLOSE_SECONDS", 0.1)
    for _ in range(3):
        engine, replica = engine_of_its_own(tiny)
        job = engine.submit(small(engine), str(tmp_path / "film.npy"))
        engine.close()
        try:
            assert not any(map(is_alive, replica.pids))
            with pytest.raises((Cancelled, WorkerError)):
                job.wait(0)
        finally:
            replica.close()


class OutOfReach:
    """The process of a rank on a machine that has gone: it neither ends nor answers."""

    pid, unheard = 0, "the worker hangs"

    def wait(self, seconds: float) -> rank.Ending | None:
        return None

    def kill(self) -> None:
        pass


class NobodyAnswers:
    """A launcher of one such rank."""

    def __init__(self) -> None:
        self.ours, self.theirs = Pipe()

    def launch(self, start: Start) -> list[rank.RankHandle]:
        return [rank.RankHandle(messages.RankPlace(), self.ours, OutOfReach())]

    def end(self) -> None:
        pass


def test_a_connection_is_closed_once_and_by_whoever_listens_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed under a thread that waits for ranks to be ready, its number may be another file's by then."""
    heard_on_open: list[bool] = []
    receive = rank.RankHandle.receive

    def receive_and_look(handle: rank.RankHandle) -> messages.FromWorker:
        time.sleep(0.2)  # all the time to close it too early
        heard_on_open.append(not handle.connection.closed)
        return receive(handle)

    monkeypatch.setattr(rank.RankHandle, "receive", receive_and_look)
    launcher = NobodyAnswers()
    with launcher.theirs, ThreadPoolExecutor() as pool:
        replica = RankedReplica(EngineConfig(model_path="nowhere", device="cpu", startup_timeout=10), launcher)
        start = pool.submit(replica.start)
        wait_until(lambda: replica.pids)
        replica.close()
        assert launcher.ours.closed and heard_on_open == [True]
        with pytest.raises(WorkerError, match="the worker hangs"):
            start.result()
        replica.close()


ENGINES = """
import sys, time
from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica

config = EngineConfig(model_path=sys.argv[1], device="cpu", num_threads=1)
replicas = [RankedReplica(config, LocalLauncher(config, RequestLimits())) for _ in range(2)]
busy, idle = (Engine(config, replica=replica) for replica in replicas)
request = busy.request("a cat", width=256, height=160, num_frames=5, num_inference_steps=1000)
job = busy.submit(request, sys.argv[2])
idle.start()
while not (job.state.step or job.state.is_over):
    time.sleep(0.01)
print(*(pid for replica in replicas for pid in replica.pids), flush=True)
time.sleep(600)
"""


def test_workers_end_with_the_process_of_their_engine(tiny: Path, tmp_path: Path) -> None:
    """One in the middle of a job and one that waits: killed, the engine cannot tell either of them."""
    command = [sys.executable, "-c", ENGINES, str(tiny), str(tmp_path / "film.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            workers = [int(pid) for pid in process.stdout.readline().split()]
            assert [is_alive(worker) for worker in workers] == [True, True]
        finally:
            process.kill()
    try:
        assert [ends(worker) for worker in workers] == [True, True]
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
