"""The engine by itself, before a Replica without a process: order, cancelling, closing, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidCheckpoint, InvalidRequest, RinglightError, WorkerError
from ringlight.core.output import part_path
from ringlight.engine.jobs import Job
from ringlight.engine.replica import Lost, Receive
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

PATIENCE = 5.0  # seconds until something that should end counts as hanging


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "film.mp4")


def engine_with(tiny: Path, replica: FakeReplica, **limits: Any) -> Engine:
    return Engine(EngineConfig(model_path=str(tiny)), RequestLimits(**limits), replica)


@pytest.fixture
def held(tiny: Path) -> Iterator[tuple[Engine, FakeReplica]]:
    """An engine whose replica stops in the middle of its first job."""
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica) as engine:
        yield engine, replica


def test_jobs_run_one_after_another_in_the_order_of_their_submission(tiny: Path, output: str) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica) as engine:
        jobs = [engine.submit(small(engine, prompt), output) for prompt in "abcde"]
        reports = [job.wait(PATIENCE) for job in jobs]
    assert [report.workload["prompt"] for report in reports] == list("abcde")
    assert replica.events == ["start", "run a", "run b", "run c", "run d", "run e", "close"]


def test_the_worker_is_started_once_and_only_when_needed(tiny: Path, output: str) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica) as engine:
        assert replica.events == []
        ready = engine.start()
        assert ready is not None
        assert ready.environment == {"device": "none"}
        assert engine.start() == ready
        engine.submit(small(engine), output).wait(PATIENCE)
    assert replica.events.count("start") == 1


def test_a_listener_sees_the_job_go_on(tiny: Path, output: str) -> None:
    seen: list[tuple[str, int]] = []
    with engine_with(tiny, FakeReplica()) as engine:
        job = engine.submit(small(engine), output, lambda job: seen.append((job.state.status, job.state.step)))
        job.wait(PATIENCE)
    assert seen == [("in_progress", 0), ("in_progress", 0), ("in_progress", 1), ("in_progress", 2), ("completed", 2)]
    assert job.state.progress == 100


def test_outputs_are_absolute_for_the_worker(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with engine_with(tiny, FakeReplica()) as engine:
        job = engine.submit(small(engine), "film.mp4")
        assert job.wait(PATIENCE).outputs == [str(tmp_path / "film.mp4")]


def test_a_running_job_is_cancelled_and_the_next_one_runs(held: tuple[Engine, FakeReplica], output: str) -> None:
    engine, replica = held
    first, second = (engine.submit(small(engine, prompt), output) for prompt in "ab")
    assert replica.in_the_middle.wait(PATIENCE)
    engine.cancel(first)
    with pytest.raises(Cancelled):
        first.wait(PATIENCE)
    second.wait(PATIENCE)
    assert replica.events == ["start", "run a", "cancel", "run b"]


def test_a_queued_job_is_cancelled_at_once_and_never_runs(held: tuple[Engine, FakeReplica], output: str) -> None:
    engine, replica = held
    first, second, third = (engine.submit(small(engine, prompt), output) for prompt in "abc")
    assert replica.in_the_middle.wait(PATIENCE)
    engine.cancel(second)
    with pytest.raises(Cancelled):
        second.wait(PATIENCE)
    assert not first.state.is_over
    replica.go_on.set()
    first.wait(PATIENCE)
    third.wait(PATIENCE)
    assert replica.events == ["start", "run a", "run c"]


def test_cancelling_a_finished_job_changes_nothing(tiny: Path, output: str) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica) as engine:
        job = engine.submit(small(engine), output)
        report = job.wait(PATIENCE)
        engine.cancel(job)
        assert job.wait(PATIENCE) == report
        engine.submit(small(engine), output).wait(PATIENCE)
    assert "cancel" not in replica.events


def test_closing_cancels_what_runs_and_what_waits(held: tuple[Engine, FakeReplica], output: str) -> None:
    engine, replica = held
    jobs = [engine.submit(small(engine, prompt), output) for prompt in "ab"]
    assert replica.in_the_middle.wait(PATIENCE)
    engine.close()
    for job in jobs:
        with pytest.raises(Cancelled):
            job.wait(PATIENCE)
    assert "run b" not in replica.events
    with pytest.raises(WorkerError, match="closed"):
        engine.submit(small(engine), output)


def test_closing_twice_and_closing_what_never_started(tiny: Path) -> None:
    engine = engine_with(tiny, FakeReplica())
    engine.close()
    engine.close()
    with engine_with(tiny, FakeReplica()) as engine:
        engine.start()
        engine.close()


def test_starting_a_closed_engine_is_an_error(tiny: Path) -> None:
    engine = engine_with(tiny, FakeReplica())
    engine.close()
    raised: list[Exception] = []

    def start() -> None:
        try:
            engine.start()
        except WorkerError as error:
            raised.append(error)

    thread = threading.Thread(target=start, daemon=True)  # a daemon, because it may hang
    thread.start()
    thread.join(PATIENCE)
    assert [str(error) for error in raised] == ["the engine is closed"]


class Unloadable(FakeReplica):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def start(self) -> messages.WorkerReady:
        raise self._error


def test_what_kept_the_worker_from_starting_is_raised_by_start_and_by_every_job(tiny: Path, output: str) -> None:
    error = InvalidCheckpoint("weights: missing")
    with engine_with(tiny, Unloadable(error)) as engine:
        with pytest.raises(InvalidCheckpoint, match="weights: missing"):
            engine.start()
        for _ in range(2):
            with pytest.raises(InvalidCheckpoint, match="weights: missing"):
                engine.submit(small(engine), output).wait(PATIENCE)


def test_an_unforeseen_error_at_the_start_does_not_leave_jobs_waiting(tiny: Path, output: str) -> None:
    with engine_with(tiny, Unloadable(OSError("no more processes"))) as engine:
        job = engine.submit(small(engine), output)
        with pytest.raises(RinglightError, match="no more processes"):
            job.wait(PATIENCE)


class Breaking(FakeReplica):
    """Fails in the middle of jobs whose prompt is "break", and is then to be started again."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        if job.request.prompt == "break":
            part_path(Path(job.output), job.job_id).touch()
            self.events.append("break")
            self.ready = False
            receive(messages.StageStarted(job_id=job.job_id, stage="Denoising"))
            return self.break_off(lost)
        super().run(job, receive, lost)

    def break_off(self, lost: Lost) -> None:
        if isinstance(self._error, RinglightError):
            return lost(self._error)
        raise self._error


def test_a_dead_worker_fails_its_job_alone_and_leaves_no_part_files(tiny: Path, tmp_path: Path, output: str) -> None:
    """Jobs that wait, and those that come later, run on workers that are started anew."""
    replica = Breaking(WorkerError("the worker process died (signal 9)"))
    with engine_with(tiny, replica) as engine:
        engine.submit(small(engine, "a"), output).wait(PATIENCE)
        broken, waiting = (engine.submit(small(engine, prompt), output) for prompt in ("break", "b"))
        with pytest.raises(WorkerError, match="signal 9"):
            broken.wait(PATIENCE)
        waiting.wait(PATIENCE)
        engine.submit(small(engine, "c"), output).wait(PATIENCE)
    assert replica.events == ["start", "run a", "break", "start", "run b", "run c", "close"]
    assert list(tmp_path.iterdir()) == []


def test_workers_lost_between_jobs_fail_no_job(tiny: Path, output: str) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica) as engine:
        engine.submit(small(engine, "a"), output).wait(PATIENCE)
        replica.ready = False
        engine.submit(small(engine, "b"), output).wait(PATIENCE)
    assert replica.events == ["start", "run a", "start", "run b", "close"]


class SlowToStartAgain(FakeReplica):
    """Waits at its second start to be told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.starts_again, self.may_start = threading.Event(), threading.Event()

    def start(self) -> messages.WorkerReady:
        if "start" in self.events:
            self.starts_again.set()
            assert self.may_start.wait(60)
        return super().start()

    def cancel(self, job_id: str) -> None:
        """Nobody is there to hear it."""


def test_a_job_cancelled_while_workers_start_again_does_not_run(tiny: Path, output: str) -> None:
    replica = SlowToStartAgain()
    with engine_with(tiny, replica) as engine:
        engine.start()
        replica.ready = False
        job = engine.submit(small(engine, "a"), output)
        assert replica.starts_again.wait(PATIENCE)
        engine.cancel(job)
        replica.may_start.set()
        with pytest.raises(Cancelled):
            job.wait(PATIENCE)
        engine.submit(small(engine, "b"), output).wait(PATIENCE)
    assert replica.events == ["start", "start", "run b", "close"]


def test_workers_that_cannot_start_again_fail_each_job_until_they_can(tiny: Path, output: str) -> None:
    class FailingOnce(FakeReplica):
        def start(self) -> messages.WorkerReady:
            if self.events[-1:] == ["run a"]:
                self.events.append("fail")
                raise WorkerError("no room")
            return super().start()

    replica = FailingOnce()
    with engine_with(tiny, replica) as engine:
        engine.submit(small(engine, "a"), output).wait(PATIENCE)
        replica.ready = False
        with pytest.raises(WorkerError, match="no room"):
            engine.submit(small(engine, "b"), output).wait(PATIENCE)
        engine.submit(small(engine, "c"), output).wait(PATIENCE)
    assert replica.events == ["start", "run a", "fail", "start", "run c", "close"]


def test_an_unforeseen_error_in_a_run_does_not_leave_jobs_waiting(tiny: Path, tmp_path: Path, output: str) -> None:
    with engine_with(tiny, Breaking(ValueError("cannot be encoded"))) as engine:
        broken = engine.submit(small(engine, "break"), output)
        with pytest.raises(RinglightError, match="cannot be encoded"):
            broken.wait(PATIENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_listener_that_raises_harms_no_job(tiny: Path, output: str) -> None:
    def listen(job: Job) -> None:
        raise LookupError("of the listener's own making")

    with engine_with(tiny, FakeReplica()) as engine:
        assert engine.submit(small(engine), output, listen).wait(PATIENCE).outputs == [output]
        assert engine.submit(small(engine), output).wait(PATIENCE).outputs == [output]


@pytest.mark.parametrize(
    ("changes", "name", "field"),
    [
        ({"width": 1281}, "film.mp4", "width"),
        ({"prompt": " "}, "film.mp4", "prompt"),
        ({"image": b"not a picture"}, "film.mp4", "image"),
        ({}, "film.avi", "output"),
        ({}, "missing/film.mp4", "output"),
        ({}, "film.png", "output"),
        ({"num_frames": 9}, "film.mp4", "num_frames"),
    ],
)
def test_what_can_be_told_without_the_worker_is_told_at_once(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], name: str, field: str
) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica, max_frames=5) as engine:
        with pytest.raises(InvalidRequest) as caught:
            engine.submit(small(engine, **changes), str(tmp_path / name))
        assert [problem.field for problem in caught.value.problems] == [field]
    assert replica.events == ["close"]


def test_problems_of_fields_picture_and_output_are_named_together(tiny: Path, tmp_path: Path) -> None:
    with engine_with(tiny, FakeReplica()) as engine, pytest.raises(InvalidRequest) as caught:
        engine.submit(small(engine, width=1281, image=b"not a picture"), str(tmp_path / "film.avi"))
    assert {problem.field for problem in caught.value.problems} == {"width", "image", "output"}


def test_requests_take_the_checkpoints_defaults(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "ringlight.json").write_text(json.dumps({"defaults": {"width": 96, "negative_prompt": "blurry"}}))
    with engine_with(folder, FakeReplica()) as engine:
        request = engine.request("a cat", height=64)
    assert (request.width, request.height, request.num_frames) == (96, 64, 121)
    assert request.negative_prompt == "blurry"


def test_a_folder_that_is_no_checkpoint_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="no such folder"):
        Engine(EngineConfig(model_path=str(tmp_path / "nowhere")))
    with pytest.raises(InvalidCheckpoint, match="model_index"):
        Engine(EngineConfig(model_path=str(tmp_path)))


def test_an_error_inside_the_context_still_closes(tiny: Path) -> None:
    replica = FakeReplica()
    with contextlib.suppress(LookupError), engine_with(tiny, replica) as engine:
        engine.start()
        raise LookupError
    assert replica.events == ["start", "close"]
