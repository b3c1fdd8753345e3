"""The worker process by itself, spoken to over its socket as the engine does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path

import msgspec
import pytest

from ringlight.core import messages
from ringlight.core.config import EngineConfig, worker_environment
from ringlight.core.request import RequestLimits, VideoRequest
from tests.worker.wires import Wire

pytestmark = pytest.mark.slow

REQUEST = VideoRequest(
    prompt="a cat",
    negative_prompt="",
    width=64,
    height=64,
    num_frames=5,
    fps=24,
    num_inference_steps=3,
    guidance_scale=5.0,
    flow_shift=5.0,
    seed=1,
)


@contextmanager
def started(model_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Wire]]:
    config = EngineConfig(model_path=str(model_path), device="cpu", num_threads=1)
    setup = msgspec.json.encode(messages.WorkerSetup(config=config, limits=RequestLimits())).decode()
    ours, theirs = Pipe()
    with ours:
        with theirs:
            command = [sys.executable, "-m", "ringlight.worker.main", str(theirs.fileno()), setup]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=worker_environment())
        try:
            yield process, Wire(ours)
        finally:
            process.kill()
            process.wait()


Worker = tuple[subprocess.Popen[bytes], Wire]


@pytest.fixture(scope="module")
def workers(tiny: Path) -> Iterator[list[Worker]]:
    """Two workers that load at the same time; each test pops its own."""
    with started(tiny) as one, started(tiny) as other:
        yield [one, other]


def test_a_worker_answers_job_by_job_and_ends_when_told_to(workers: list[Worker], tmp_path: Path) -> None:
    output = str(tmp_path / "film.npy")
    process, wire = workers.pop()
    ready = wire.receive()
    assert isinstance(ready, messages.WorkerReady)
    assert ready.load_seconds > 0
    assert ready.environment["device_type"] == "cpu"

    wire.send(messages.CancelJob(job_id="another"), messages.RunJob(job_id="one", request=REQUEST, output=output))
    *events, completed = wire.receive_job("one")
    assert isinstance(completed, messages.JobCompleted)
    assert completed.report.outputs == [output]
    steps = [(event.step, event.num_steps) for event in events if isinstance(event, messages.StepFinished)]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    decoded = [(event.num_done, event.num_frames) for event in events if isinstance(event, messages.FramesDecoded)]
    assert decoded == [(1, 5), (5, 5)]
    stages = [event.stage for event in events if isinstance(event, messages.StageStarted)]
    assert stages == [stage.name for stage in completed.report.stages]
    assert events[-1] == messages.Computed(job_id="one")

    cancelled_before = messages.RunJob(job_id="two", request=REQUEST, output=str(tmp_path / "two.npy"))
    wire.send(messages.CancelJob(job_id="two"), cancelled_before)
    (failed,) = wire.receive_job("two")
    assert isinstance(failed, messages.JobFailed)
    assert failed.code == "cancelled"

    impossible = msgspec.structs.replace(REQUEST, height=65, num_frames=4)
    wire.send(messages.RunJob(job_id="three", request=impossible, output=str(tmp_path / "three.npy")))
    *_, failed = wire.receive_job("three")
    assert isinstance(failed, messages.JobFailed)
    assert failed.code == "invalid_request"
    assert [(problem.field, problem.nearest) for problem in failed.problems] == [
        ("height", "64"),
        ("num_frames", "5"),
    ]

    wire.send(messages.RunJob(job_id="four", request=REQUEST, output=output), messages.Shutdown())
    assert isinstance(wire.receive_job("four")[-1], messages.JobCompleted)
    assert process.wait(60) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["film.npy"]


def test_a_worker_that_cannot_understand_its_engine_ends(workers: list[Worker]) -> None:
    """Were it to go on, it would be deaf: to all that comes later, and to the end of its engine."""
    process, wire = workers.pop()
    wire.send_raw(b"\xff nonsense")
    assert process.wait(30) != 0
