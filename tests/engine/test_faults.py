"""Two ranks of which one is killed, stopped or fails, at ten points of a job: how it ends, and that the next is right.

The ranks are forked (`faults`); that started ones end the same way is in `test_many_ranks` and `test_worker_death`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core.config import NodesConfig
from ringlight.core.errors import (
    Cancelled,
    InvalidRequest,
    NumericalError,
    OutOfMemory,
    OutputError,
    RinglightError,
    WorkerError,
)
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.engine import process
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.planner import deciding
from tests.engine.faults import fork_rank
from tests.engine.processes import ends, wait_until
from tests.engine.requests import small
from tests.engine.test_generation import torn

pytestmark = pytest.mark.slow

WATCHDOG_SECONDS = 2.0
ONE_NODE = NodesConfig()
SOON = 20.0  # the watchdog, a second to hear of the cause, and a machine with other things to do

POINTS = [
    "TextEncoding",
    "transfer 1",  # in the text encoder: one rank waits there for the other
    "ImageEncoding",
    "Denoising",
    "step 1",
    "step 2",
    "Decoding",
    "frames 1",
    "frames 9",
    "Output",
]
ERRORS: dict[str, type[RinglightError]] = {"memory": OutOfMemory, "nan": NumericalError, "error": WorkerError}
# A rank is killed at every point, either in turn. One that is stopped is waited for, so at every third point only; one
# that fails alone does so at every other: the other one then loses it as one that was killed.
DEATHS = [("kill", i % 2, point) for i, point in enumerate(POINTS)]
DEATHS += [("stop", i % 2, point) for i, point in enumerate(POINTS[1::3])]
FAILURES = [(kind, i % 2, point) for (i, point), kind in zip(enumerate(POINTS[1::2]), itertools.cycle(ERRORS))]

POISONS = [
    ("vae", "encoder.conv_out.bias", "ImageEncoding"),
    ("transformer", "proj_out.bias", "Denoising"),
    ("vae", "decoder.conv_out.bias", "Decoding"),
]


class Pair:
    """An engine of two ranks, and what its videos should be."""

    def __init__(self, engine: Engine, replica: RankedReplica, folder: Path, photograph: bytes) -> None:
        self.engine = engine
        self.replica = replica
        self._folder = folder
        self._photograph = photograph
        engine.start()
        self._expected = self._latents()

    @property
    def pids(self) -> list[int]:
        return self.replica.pids

    def run(self, prompt: str, output: Path, on_change: Callable[[Job], None] | None = None) -> None:
        """A job with every stage. Raises its error."""
        request = small(self.engine, prompt, num_frames=9, image=self._photograph)
        self.engine.submit(request, str(output), on_change).wait(60)

    def makes_the_same_as_ever(self) -> bool:
        return self._latents() == self._expected

    def _latents(self) -> bytes:
        path = self._folder / "latents.safetensors"
        self.engine.submit(small(self.engine, image=self._photograph), str(path)).wait(60)
        return path.read_bytes()


def two_ranks(tiny: Path, nodes: NodesConfig = ONE_NODE) -> EngineConfig:
    return EngineConfig(
        model_path=str(tiny),
        device="cpu",
        num_threads=1,
        asked_layout=AskedLayout(num_gpus=2),
        watchdog_timeout=WATCHDOG_SECONDS,
        nodes=nodes,
    )


@pytest.fixture(scope="module")
def pair(tiny: Path, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    config = two_ranks(tiny)
    replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks=2))
    with pytest.MonkeyPatch.context() as patch, Engine(config, replica=replica) as engine:
        patch.setattr(process, "launch", fork_rank)
        yield Pair(engine, replica, tmp_path_factory.mktemp("latents"), photograph.read_bytes())


def is_whole_or_absent(output: Path) -> bool:
    """A rank that is lost after the video is in its place fails the job all the same."""
    left = list(output.parent.iterdir())
    return left == [] or (left == [output] and output.stat().st_size > 9 * 64 * 32 * 3 * 4)


def fail(pair: Pair, prompt: str, error: type[RinglightError], output: Path) -> str:
    """Run a job that fails, soon and with this very error; returns the message."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        pair.run(prompt, output)
    assert type(caught.value) is error
    assert time.monotonic() - began < SOON
    assert is_whole_or_absent(output)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "rank", "point"), DEATHS)
def test_a_rank_that_is_killed_or_stopped_ends_its_job_and_both_ranks(
    pair: Pair, tmp_path: Path, kind: str, rank: int, point: str
) -> None:
    before = pair.pids
    said = fail(pair, f"{kind} {rank} {point}", WorkerError, tmp_path / "film.npy")
    assert f"rank {rank}" in said
    assert kind == "stop" or "signal 9" in said
    assert all(map(ends, before))
    assert pair.makes_the_same_as_ever()
    assert not set(pair.pids) & set(before)


@pytest.mark.parametrize(("kind", "rank", "point"), FAILURES)
def test_a_rank_that_fails_alone_ends_its_job_and_both_ranks(
    pair: Pair, tmp_path: Path, kind: str, rank: int, point: str
) -> None:
    """The other one may be anywhere by then. What is reported is the cause, not that a rank was lost."""
    before = pair.pids
    said = fail(pair, f"{kind} {rank} {point}", ERRORS[kind], tmp_path / "film.npy")
    assert {"memory": "does not fit", "nan": "not finite", "error": "LookupError"}[kind] in said
    assert all(map(ends, before))
    assert pair.makes_the_same_as_ever()


@pytest.mark.parametrize(("kind", "point"), list(zip(itertools.cycle(ERRORS), POINTS, strict=False)))
def test_what_all_ranks_raise_alike_fails_the_job_alone(pair: Pair, tmp_path: Path, kind: str, point: str) -> None:
    before = pair.pids
    fail(pair, f"{kind} all {point}", ERRORS[kind], tmp_path / "film.npy")
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


@pytest.mark.parametrize(("kind", "ranks"), [("nan", "0"), ("error", "1"), ("memory", "all")])
def test_a_job_that_cannot_be_set_up_fails_alone_also_where_one_rank_says_so(
    pair: Pair, tmp_path: Path, kind: str, ranks: str
) -> None:
    before = pair.pids
    said = fail(pair, f"{kind} {ranks} mesh", ERRORS[kind], tmp_path / "film.npy")
    assert {"memory": "does not fit", "nan": "not finite", "error": "LookupError"}[kind] in said
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


@pytest.mark.parametrize(("network", "parameter", "stage"), POISONS)
@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_that_are_not_finite_fail_the_job_on_all_ranks_together(
    pair: Pair, tmp_path: Path, rank: int, network: str, parameter: str, stage: str
) -> None:
    """Also those of one rank alone, whose band of frames is bad while the other is good."""
    before = pair.pids
    said = fail(pair, f"poison {rank} {network}.{parameter}", NumericalError, tmp_path / "film.mp4")
    assert said.startswith(f"{stage}: ")
    assert list(tmp_path.iterdir()) == []
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


def test_a_device_that_has_failed_ends_its_ranks_also_where_all_raise_alike(pair: Pair, tmp_path: Path) -> None:
    """It would fail all later jobs too."""
    before = pair.pids
    said = fail(pair, "device all step 1", WorkerError, tmp_path / "film.npy")
    assert "an illegal memory access" in said
    assert all(map(ends, before))
    assert pair.makes_the_same_as_ever()


@pytest.mark.parametrize("faults", ["release all Denoising", "late 0 Denoising; release 1 Denoising"])
def test_a_failure_is_told_before_memory_is_given_back(pair: Pair, tmp_path: Path, faults: str) -> None:
    """A device may fail only then. The job has its own error; the ranks end, and the next job has new ones."""
    before = pair.pids
    fail(pair, f"{faults}; memory all step 1", OutOfMemory, tmp_path / "film.npy")
    assert all(map(ends, before))
    assert pair.makes_the_same_as_ever()


def test_what_a_job_leaves_behind_is_not_held_against_the_next(pair: Pair, tmp_path: Path) -> None:
    """It is sent to ranks that are about to end, and begun by others."""
    before = pair.pids
    fail(pair, "release_late all Denoising; memory all step 1", OutOfMemory, tmp_path / "film.npy")
    assert pair.makes_the_same_as_ever()
    assert all(map(ends, before))


def test_alike_but_not_at_the_same_place(pair: Pair, tmp_path: Path) -> None:
    """What one has sent and the other never fetched must not reach the next job."""
    before = pair.pids
    fail(pair, "memory 0 transfer 8; memory 1 transfer 7", OutOfMemory, tmp_path / "film.npy")
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


def test_both_ranks_fail_but_not_alike(pair: Pair, tmp_path: Path) -> None:
    before = pair.pids
    with pytest.raises((OutOfMemory, NumericalError)):
        pair.run("memory 0 step 1; nan 1 step 1", tmp_path / "film.npy")
    assert all(map(ends, before))
    assert pair.makes_the_same_as_ever()


@pytest.mark.parametrize("name", ["film.npy", "film.mp4", "film_%02d.png"])
def test_a_full_disk_fails_the_job_on_all_ranks_together(pair: Pair, tmp_path: Path, name: str) -> None:
    before = pair.pids
    said = fail(pair, "full 0 Decoding", OutputError, tmp_path / name)
    assert f"{name}: File too large; make room" in said
    pair.run("room 0 TextEncoding", tmp_path / "b.npy")
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


@pytest.mark.parametrize(
    ("name", "stage"), [("film.npy", "Denoising"), ("film.npy", "Decoding"), ("film.gif", "Output")]
)
def test_a_folder_that_goes_away_fails_the_job_on_all_ranks_together(
    pair: Pair, tmp_path: Path, name: str, stage: str
) -> None:
    before, folder = pair.pids, tmp_path / "folder"
    folder.mkdir()

    def remove(job: Job) -> None:
        if job.state.stage == "TextEncoding":
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(OutputError, match="No such file"):
        pair.run("a cat", folder / name, remove)
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


@pytest.mark.parametrize("name", ["c2u1r1", "u2r1", "u1r2"])
def test_a_cancel_within_a_step_frees_all_ranks_there(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rank 0 hears of it by its second block. No rank comes to a third, of the six that a step has."""
    monkeypatch.setattr(deciding, "LONG_STEP_SECONDS", 0.0)
    monkeypatch.setattr(deciding, "AGREEMENT_SECONDS", 0.0)
    before = pair.pids

    def cancel(job: Job) -> None:
        if job.state.stage == "Denoising":
            pair.engine.cancel(job)

    request, output = small(pair.engine, "asked 0 block 2; kill all block 3"), tmp_path / "film.npy"
    kept = Submission(keep=Keep(state_file=str(tmp_path / "state"), max_repeats=0))
    job = pair.engine.submit(request, str(output), cancel, ParallelLayout.parse(name), kept)
    with pytest.raises(Cancelled):
        job.wait(60)
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before
    assert not output.exists()


def test_a_damaged_picture_fails_the_job_on_all_ranks_together(pair: Pair, tmp_path: Path, photograph: Path) -> None:
    before, output = pair.pids, tmp_path / "film.npy"
    job = pair.engine.submit(small(pair.engine, image=torn(photograph)), str(output))
    with pytest.raises(InvalidRequest) as caught:
        job.wait(60)
    assert [problem.field for problem in caught.value.problems] == ["image"]
    assert pair.makes_the_same_as_ever()
    assert pair.pids == before


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_rank_lost_between_jobs_fails_none(pair: Pair, rank: int, number: signal.Signals) -> None:
    before = pair.pids
    os.kill(before[rank], number)
    wait_until(lambda: not pair.replica.is_ready())
    assert pair.makes_the_same_as_ever()
    assert all(map(ends, before))


@pytest.mark.parametrize("point", ["step 1", "transfer 3", "frames 1"])
def test_what_failed_on_another_machine_is_reported_on_both(tiny: Path, tmp_path: Path, point: str) -> None:
    """Node 0 sees that a rank is gone; why, it can only hear from that rank."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(process, "launch", fork_rank)
        first, second = (
            stack.enter_context(Engine(two_ranks(tiny, NodesConfig(nnodes=2, node_rank=i, dist_init_addr=address))))
            for i in range(2)
        )
        following = stack.enter_context(ThreadPoolExecutor(1)).submit(second.follow)
        job = first.submit(small(first, f"memory 1 {point}", num_frames=9), str(tmp_path / "film.npy"))
        with pytest.raises(OutOfMemory, match=r"rank 1: .*does not fit"):
            job.wait(60)
        assert isinstance(following.exception(60), OutOfMemory)
    assert list(tmp_path.iterdir()) == []
