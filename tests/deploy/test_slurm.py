"""The script for Slurm, run by a real one of two nodes: one rank's video, and the cause where a rank dies."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ringlight import Engine
from tests.deploy.slurm import Slurm, running_slurm, why_not
from tests.engine.processes import wait_until

SCRIPT = Path(__file__).parents[2] / "deploy/slurm/ringlight.sbatch"
VIDEO: dict[str, int] = {"width": 96, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}
LONG = ["--size", "256x160", "--num-frames", 5, "--num-inference-steps", 1000]
missing = why_not()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing is not None, reason=missing or "")]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as running:
        yield running


def generate(tiny: Path, output: Path, *flags: object) -> list[object]:
    command = ["generate", "--model-path", tiny, "--prompt", "a cat", "-o", output, "--num-gpus", 2]
    return [*command, "--num-threads", 1, *flags]


def test_two_nodes_make_one_ranks_video(slurm: Slurm, engine: Engine, tiny: Path, tmp_path: Path) -> None:
    made, expected = tmp_path / "film.npy", tmp_path / "expected.npy"
    flags = [word for name, value in VIDEO.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = slurm.ended(slurm.submit(SCRIPT, *generate(tiny, made, *flags, "--cfg-degree", 1)))
    assert (done.state, done.code) == ("COMPLETED", 0), done.log
    assert "; u1r2 on " in done.log and "hosting  ranks for node 0" in done.log
    assert done.log.splitlines().count(str(made)) == 1, "node 1 names no file"
    engine.submit(engine.request("a cat", **VIDEO), str(expected)).wait(60)
    assert np.abs(np.load(made) - np.load(expected)).max() < 2e-5


def test_a_rank_that_is_killed_fails_the_job_and_the_log_says_why(slurm: Slurm, tiny: Path, tmp_path: Path) -> None:
    job = slurm.submit(SCRIPT, *generate(tiny, tmp_path / "film.mp4", *LONG))
    wait_until(lambda: "Denoising" in slurm.log(job))
    (rank,) = slurm.processes("ringlight.worker.start", SLURM_JOB_ID=job, SLURM_NODEID=1)
    os.kill(rank, signal.SIGKILL)
    done = slurm.ended(job)
    assert (done.state, done.code) == ("FAILED", 4), done.log
    said = [line for line in done.log.splitlines() if line.startswith("ringlight: ")]
    assert any("rank 1: the worker process died (signal 9)" in line for line in said), done.log
    assert any(re.search(r"worker_error: node 1 \([^ ]+\) is lost: ", line) for line in said), done.log
    assert "cancelled" not in done.log, "Slurm ended node 0 before it had told the cause"
    assert slurm.processes(SLURM_JOB_ID=job) == []
    assert [*tmp_path.iterdir()] == []
