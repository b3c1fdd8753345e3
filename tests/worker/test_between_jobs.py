"""What a worker does beside and between jobs: answers, finishes outputs, goes on where another one died, warms up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ringlight.core import messages
from ringlight.core.config import EngineConfig, worker_environment
from ringlight.core.lora import LoraFile
from ringlight.core.output import part_path
from ringlight.core.request import RequestLimits
from ringlight.families import lora_library
from ringlight.families.model import ModelSpec
from ringlight.worker.warming import smallest_requests
from tests.engine.faults import fork_rank
from tests.loras import write_lora
from tests.worker.test_process import REQUEST
from tests.worker.wires import Wire, started, until

pytestmark = pytest.mark.slow

LONG = msgspec.structs.replace(REQUEST, num_inference_steps=500)


def job_of(output: Path, **fields: object) -> messages.RunJob:
    """A job that is called as its output."""
    return messages.RunJob(job_id=output.stem, request=REQUEST, output=str(output), **fields)


def is_of(kind: type, job: messages.RunJob) -> Callable[[messages.FromWorker], bool]:
    return lambda message: isinstance(message, kind) and message.job_id == job.job_id


class Gate:
    """A disk that takes its time: what writes the part file of a job waits in `open` until the gate is opened."""

    def __init__(self, job: messages.RunJob) -> None:
        self._part = part_path(Path(job.output), job.job_id)
        self._pipe = self._part.with_name("gate")
        os.mkfifo(self._part)
        os.link(self._part, self._pipe)

    def open(self) -> None:
        """Let it write, into the gate; it then finds another file in the place of its own."""
        self._part.unlink()
        self._part.write_bytes(bytes(100))
        self._passed = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)  # it need not have come to the gate yet

    def close(self) -> None:
        os.close(self._passed)
        self._pipe.unlink()


def test_it_answers_while_it_computes(tiny: Path, tmp_path: Path) -> None:
    job = msgspec.structs.replace(job_of(tmp_path / "film.npy"), request=LONG)
    with started(tiny) as (_, wire):
        wire.send(job)
        until(wire, is_of(messages.StepFinished, job))
        wire.send(*(messages.Ping(number=number) for number in (7, 8)))
        answered = until(wire, lambda message: message == messages.Pong(number=8))
        assert messages.Pong(number=7) in answered
        assert not any(map(is_of(messages.Computed, job), answered))
        wire.send(messages.CancelJob(job_id=job.job_id))
        (*_, failed) = until(wire, is_of(messages.JobFailed, job))
        assert failed.code == "cancelled"


def test_the_next_job_is_computed_while_an_output_is_written(tiny: Path, tmp_path: Path) -> None:
    one, two = job_of(tmp_path / "one.safetensors"), job_of(tmp_path / "two.safetensors")
    gate = Gate(one)
    with started(tiny) as (process, wire):
        wire.send(one)
        first = until(wire, is_of(messages.Computed, one))
        stages = [message.stage for message in first if isinstance(message, messages.StageStarted)]
        assert stages[-2:] == ["Denoising", "Output"]
        wire.send(two)
        until(wire, lambda message: message == messages.StageStarted(job_id="two", stage="Output"))
        wire.send(messages.Ping(number=1))
        assert wire.receive() == messages.Pong(number=1)
        assert not (tmp_path / "one.safetensors").exists()
        gate.open()
        endings = until(wire, is_of(messages.JobCompleted, two))  # at most one output is being finished at a time
        assert [(type(message), message.job_id) for message in endings] == [
            (messages.JobCompleted, "one"),
            (messages.Computed, "two"),
            (messages.JobCompleted, "two"),
        ]
        for completed in (endings[0], endings[2]):
            report = completed.report
            assert [stage.name for stage in report.stages] == stages
            assert report.ranks[0].stages == report.stages
            assert report.stages[-1].seconds > 0
            parts = sum(stage.seconds for stage in report.stages) + report.other_seconds
            assert parts == pytest.approx(report.total_seconds, rel=1e-9)
            assert report.outputs == [str(tmp_path / f"{completed.job_id}.safetensors")]
        assert process.poll() is None
    gate.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_it_writes_what_it_has_before_it_ends(tiny: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path / "film.safetensors")
    gate = Gate(job)
    with started(tiny) as (process, wire):
        wire.send(job, messages.Shutdown())
        until(wire, is_of(messages.Computed, job))
        gate.open()
        assert isinstance(wire.receive(), messages.JobCompleted)
        assert process.wait(30) == 0
    gate.close()
    assert (tmp_path / "film.safetensors").exists()


def test_without_its_engine_it_leaves_nothing_half_written(tiny: Path, tmp_path: Path) -> None:
    finishing = job_of(tmp_path / "one.safetensors")
    running = msgspec.structs.replace(
        job_of(tmp_path / "two.npy"), request=LONG, state_file=str(tmp_path / "state" / "two.safetensors")
    )
    Gate(finishing)
    (tmp_path / "state").mkdir()
    with started(tiny) as (process, wire):
        wire.send(finishing, running)
        until(wire, is_of(messages.StateSaved, running))
        part_path(Path(running.state_file), running.job_id).touch()  # as if the next one were being written
        wire.close()
        assert process.wait(30) != 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gate", "state"]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["two.safetensors"]


def test_an_output_that_cannot_be_finished_fails_its_job_alone(tiny: Path, tmp_path: Path) -> None:
    lost, fine = job_of(tmp_path / "nowhere" / "lost.safetensors"), job_of(tmp_path / "fine.safetensors")
    with started(tiny) as (_, wire):
        wire.send(lost, fine)
        received = until(wire, is_of(messages.JobCompleted, fine))
        failed = [message for message in received if isinstance(message, messages.JobFailed)]
        assert [(message.job_id, message.code) for message in failed] == [("lost", "output_error")]
        assert "lost.safetensors: No such file or directory; make room" in failed[0].message
        assert messages.Computed(job_id="lost") in received


@pytest.mark.parametrize("name", ["film.npy", "film.mp4"])
def test_a_job_whose_worker_is_killed_goes_on_in_another(tiny: Path, tmp_path: Path, name: str) -> None:
    request = msgspec.structs.replace(REQUEST, num_inference_steps=40)
    whole = msgspec.structs.replace(job_of(tmp_path / f"whole_{name}"), request=request)
    job = msgspec.structs.replace(
        job_of(tmp_path / name), request=request, state_file=str(tmp_path / "state.safetensors"), save_seconds=0.0
    )
    with started(tiny) as (process, wire):
        wire.send(whole)
        until(wire, is_of(messages.JobCompleted, whole))
        wire.send(job)
        until(wire, lambda message: isinstance(message, messages.StateSaved) and message.step >= 5)
        process.send_signal(signal.SIGKILL)
    with started(tiny) as (_, wire):
        wire.send(job)
        received = until(wire, is_of(messages.JobCompleted, job))
    report = received[-1].report
    assert report.resumed_from_step >= 5
    steps = [message.step for message in received if isinstance(message, messages.StepFinished)]
    assert steps == [*range(report.resumed_from_step + 1, 41)]
    assert len(report.step_seconds) == len(steps)
    saved = [message.step for message in received if isinstance(message, messages.StateSaved)]
    assert saved[-1] == 40
    assert received.index(messages.StateSaved(job_id=job.job_id, step=40)) < len(received) - 2  # before Computed
    assert Path(job.output).read_bytes() == Path(whole.output).read_bytes()


def test_a_state_of_other_weights_or_another_request_is_not_used(tiny: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "state.safetensors")
    with started(tiny) as (_, wire):
        for seed, expected in ((1, 0), (1, 3), (2, 0)):
            request = msgspec.structs.replace(REQUEST, seed=seed)
            job = msgspec.structs.replace(job_of(tmp_path / "film.npy"), request=request, state_file=state)
            wire.send(job)
            (*_, completed) = until(wire, is_of(messages.JobCompleted, job))
            assert completed.report.resumed_from_step == expected


def test_previews_are_sent_where_they_are_asked_for(tiny: Path, tmp_path: Path) -> None:
    with started(tiny) as (_, wire):
        for seconds, steps in ((1e-6, [1, 2, 3]), (0.0, [])):
            job = job_of(tmp_path / "film.npy", preview_seconds=seconds)
            wire.send(job)
            received = until(wire, is_of(messages.JobCompleted, job))
            previews = [message for message in received if isinstance(message, messages.PreviewMade)]
            assert [preview.step for preview in previews] == steps
            assert all(preview.picture.startswith(b"\xff\xd8") for preview in previews)


def test_warm_it_makes_the_same_video(tiny: Path, tmp_path: Path) -> None:
    videos = []
    for warm_up in (False, True):
        with started(tiny, warm_up) as (_, wire):
            job = job_of(tmp_path / f"{warm_up}.npy")
            wire.send(job)
            (first, *_, completed) = until(wire, is_of(messages.JobCompleted, job))
            assert first == messages.StageStarted(job_id=job.job_id, stage="InputValidation")
            assert len(completed.report.step_seconds) == REQUEST.num_inference_steps
            videos.append(np.load(job.output))
    assert np.array_equal(*videos)


def test_the_smallest_requests_are_such_that_the_limits_allow(spec: ModelSpec) -> None:
    for limits in (RequestLimits(), RequestLimits(max_frames=1, max_steps=1, max_pixels=1024)):
        for request in smallest_requests(spec, limits):
            request.check(spec, limits)


def test_what_breaks_in_warming_up_is_told_before_the_first_job(tiny: Path) -> None:
    """Here the limits leave nothing that could be made."""
    config = EngineConfig(model_path=str(tiny), device="cpu", num_threads=1, warm_up=True)
    setup = messages.WorkerSetup(config=config, limits=RequestLimits(max_pixels=1))
    ours, theirs = Pipe()
    with ours:
        with theirs:
            arguments = [str(theirs.fileno()), msgspec.json.encode(setup).decode()]
            process = fork_rank(arguments, [theirs.fileno()], worker_environment())
        failed = Wire(ours).receive()
        assert isinstance(failed, messages.WorkerFailed)
        assert failed.code == "invalid_request"
        assert process.wait(30) == 1


def test_a_lora_that_is_always_on_is_hashed_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start says to all ranks which file it is, and loads it."""
    file = write_lora(tmp_path / "ink.safetensors", tiny / "transformer", modules="blocks.0.attn1.to_q".__eq__).path
    read, hashed = tmp_path / "read", lora_library.hashed

    def noted(found: LoraFile) -> LoraFile:
        with read.open("a") as notes:
            notes.write(f"{found.path}\n")
        return hashed(found)

    monkeypatch.setattr(lora_library, "hashed", noted)
    with started(tiny, lora=(str(file),)):
        pass
    assert read.read_text() == f"{file}\n"
