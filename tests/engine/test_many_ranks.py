"""One video over two real ranks: the same as one rank's, whatever the layout, and ended in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core.errors import Cancelled, InvalidLayout, WorkerError
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.report import RunReport
from ringlight.engine import process
from ringlight.engine.jobs import Job
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from tests.engine.processes import ends, is_alive, wait_until
from tests.engine.requests import endless, small
from tests.forking import start_rank

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
BRANCHES, ULYSSES, RING = ParallelLayout(cfg=2), ParallelLayout(ulysses=2), ParallelLayout(ring=2)
VIDEO: dict[str, Any] = {"width": 96, "height": 160, "num_frames": 9}  # 5 rows of latents for two ranks, 45 tokens


class TwoRanks:
    """An engine laid out as c2u1r1, and its processes."""

    def __init__(self, tiny: Path, **settings: Any) -> None:
        config = EngineConfig(
            model_path=str(tiny), device="cpu", num_threads=1, asked_layout=AskedLayout(num_gpus=2), **settings
        )
        self.replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks=2))
        self.engine = Engine(config, replica=self.replica)


@pytest.fixture(scope="module")
def two_ranks(tiny: Path) -> Iterator[TwoRanks]:
    """Programs that are started, of which all others here are forks."""
    ranks = TwoRanks(tiny)
    with ranks.engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process, "launch", start_rank)
            ranks.engine.start()
        yield ranks


@pytest.fixture(scope="module")
def pair(two_ranks: TwoRanks) -> Engine:
    return two_ranks.engine


def make(engine: Engine, output: Path, layout: ParallelLayout | None = None, **changes: Any) -> RunReport:
    return engine.submit(small(engine, **VIDEO | changes), str(output), layout=layout).wait(60)


def error_of(made: Path, expected: Path) -> float:
    """The largest difference of two .npy files."""
    mine, theirs = np.load(made), np.load(expected)
    assert mine.shape == theirs.shape == (9, 160, 96, 3)
    return float(np.abs(mine - theirs).max())


def kinds(report: RunReport) -> list[set[str]]:
    """The kinds of traffic of each rank."""
    return [set(rank.link) for rank in report.ranks]


@pytest.mark.parametrize("has_image", [False, True])
def test_guidance_over_two_ranks_gives_one_ranks_video(
    engine: Engine, pair: Engine, tmp_path: Path, photograph: Path, has_image: bool
) -> None:
    """Each rank runs one branch alone, so that latents are the same bits."""
    assert pair.choice.layout == BRANCHES
    changes: dict[str, Any] = {"image": photograph.read_bytes() if has_image else None}
    for name in ("latents.safetensors", "frames.npy"):
        make(engine, tmp_path / f"one_{name}", **changes)
        report = make(pair, tmp_path / f"two_{name}", **changes)
        assert report.layout == "c2u1r1"
    assert (tmp_path / "one_latents.safetensors").read_bytes() == (tmp_path / "two_latents.safetensors").read_bytes()
    assert error_of(tmp_path / "two_frames.npy", tmp_path / "one_frames.npy") < TOLERANCE


@pytest.mark.parametrize(
    ("layout", "guidance_scale", "used"),
    [(None, 1.0, "u2r1"), (ULYSSES, 5.0, "u2r1"), (RING, 5.0, "u1r2"), (RING, 1.0, "u1r2")],
)
def test_every_layout_of_the_same_ranks_gives_one_ranks_video(
    engine: Engine, pair: Engine, tmp_path: Path, layout: ParallelLayout | None, guidance_scale: float, used: str
) -> None:
    """Without guidance there is one branch, which both ranks then share by themselves."""
    make(engine, tmp_path / "one.npy", guidance_scale=guidance_scale)
    report = make(pair, tmp_path / "two.npy", layout, guidance_scale=guidance_scale)
    assert report.layout == used
    assert error_of(tmp_path / "two.npy", tmp_path / "one.npy") < TOLERANCE


def test_the_same_seed_gives_the_same_video_and_another_one_another(pair: Engine, tmp_path: Path) -> None:
    for name, seed in {"a": 7, "again": 7, "b": 8}.items():
        make(pair, tmp_path / f"{name}.npy", ULYSSES, seed=seed)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()
    assert error_of(tmp_path / "a.npy", tmp_path / "b.npy") > 0.01


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (ParallelLayout(), {}, "u1r1 has 1 ranks and the engine 2"),
        (ParallelLayout(cfg=2, ring=2), {}, "c2u1r2 has 4 ranks and the engine 2"),
        (BRANCHES, {"guidance_scale": 1.0}, "c2u1r1 has two guidance branches and the request none"),
    ],
)
def test_layouts_that_do_not_fit_are_refused_at_once(
    pair: Engine, tmp_path: Path, layout: ParallelLayout, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidLayout, match=message):
        pair.submit(small(pair, **changes), str(tmp_path / "film.npy"), layout=layout)


def test_the_report_has_every_ranks_stages_memory_and_traffic(pair: Engine, tmp_path: Path) -> None:
    report = make(pair, tmp_path / "film.npy", prompt="seen for the first time")
    assert [rank.rank for rank in report.ranks] == [memory.rank for memory in report.memory] == [0, 1]
    assert report.stages == report.ranks[0].stages
    for rank in report.ranks:
        assert [stage.name for stage in rank.stages] == [stage.name for stage in report.stages]
        assert all(stage.seconds >= 0 and stage.peak_bytes > 0 for stage in rank.stages)
        assert rank.memory.peak_bytes > 0
        assert all(link.sent_bytes >= 0 and link.wait_seconds >= 0 for link in rank.link.values())
    for position, stage in enumerate(report.stages):
        assert report.slowest(position).seconds >= stage.seconds
    assert report.environment["num_nodes"] == 1
    assert "| 1 | cpu |" in report.table()
    assert "| cfg |" in report.table()


def test_what_travels_and_what_never_does(pair: Engine, tmp_path: Path) -> None:
    """Noise is drawn alike on every rank, from the seed; and a prompt seen before is known to all ranks."""
    make(pair, tmp_path / "film.npy")
    branches = make(pair, tmp_path / "film.safetensors")
    assert kinds(branches) == [{"cfg"}, {"cfg"}]
    latents = pair.spec.latent_shape(9, 160, 96)
    prediction_bytes = 4 * int(np.prod(latents))
    assert [rank.link["cfg"].sent_bytes for rank in branches.ranks] == [2 * prediction_bytes] * 2  # two steps
    ulysses = make(pair, tmp_path / "film.safetensors", ULYSSES)
    assert kinds(ulysses) == [{"ulysses", "gather"}] * 2
    ring = make(pair, tmp_path / "film.safetensors", RING)
    assert kinds(ring) == [{"ring", "gather"}] * 2


MOMENTS = {
    "Denoising": lambda job: job.state.stage == "Denoising",
    "a step": lambda job: job.state.step == 1,
    "Decoding": lambda job: job.state.stage == "Decoding",
    "the first frames": lambda job: job.state.frames_done == 1,
    "more frames": lambda job: job.state.frames_done >= 9,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cancel_ends_the_job_on_both_ranks_and_both_live_on(two_ranks: TwoRanks, tmp_path: Path, moment: str) -> None:
    pair, before = two_ranks.engine, two_ranks.replica.pids

    def cancel(job: Job) -> None:
        if MOMENTS[moment](job) and not job.state.is_over:
            pair.cancel(job)

    make(pair, tmp_path / "expected.npy")
    request = small(pair, width=256, height=160, num_frames=81, num_inference_steps=2)
    with pytest.raises(Cancelled):
        pair.submit(request, str(tmp_path / "film.mp4"), cancel).wait(60)
    make(pair, tmp_path / "next.npy")
    assert (tmp_path / "next.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"next.npy", "expected.npy"}
    assert two_ranks.replica.pids == before


def test_closing_in_the_middle_ends_job_and_ranks(tiny: Path, tmp_path: Path) -> None:
    ranks = TwoRanks(tiny)
    job = ranks.engine.submit(endless(ranks.engine), str(tmp_path / "film.npy"))
    wait_until(lambda: job.state.step or job.state.is_over)
    pids = ranks.replica.pids
    assert list(map(is_alive, pids)) == [True, True]
    ranks.engine.close()
    assert list(map(is_alive, pids)) == [False, False]
    with pytest.raises(Cancelled):
        job.wait(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_while_loading_is_an_error_of_start(tiny: Path, rank: int) -> None:
    ranks = TwoRanks(tiny)
    with ranks.engine:
        ranks.engine.start(wait=False)
        wait_until(lambda: len(ranks.replica.pids) == 2)
        pids = ranks.replica.pids
        os.kill(pids[rank], signal.SIGKILL)
        with pytest.raises(WorkerError, match=rf"rank {rank}: .*died \(signal 9\)"):
            ranks.engine.start()
        assert all(map(ends, pids))


ENGINE = """
import sys, time
from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core.layout import AskedLayout
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.engine import process

config = EngineConfig(model_path=sys.argv[1], device="cpu", num_threads=1, asked_layout=AskedLayout(num_gpus=2))
replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks=2))
engine = Engine(config, replica=replica)
request = engine.request("a cat", width=256, height=160, num_frames=5, num_inference_steps=1000)
job = engine.submit(request, sys.argv[2])
while not (job.state.step or job.state.is_over):
    time.sleep(0.01)
print(*replica.pids, flush=True)
time.sleep(600)
"""


def test_ranks_end_with_the_process_of_their_engine(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(tiny), str(tmp_path / "film.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ranks = [int(pid) for pid in process.stdout.readline().split()]
            assert list(map(is_alive, ranks)) == [True, True]
        finally:
            process.kill()
    try:
        assert list(map(ends, ranks)) == [True, True]
    finally:
        for rank in filter(is_alive, ranks):
            os.kill(rank, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []
