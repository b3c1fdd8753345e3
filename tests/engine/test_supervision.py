"""What an engine does about workers that die: which jobs are repeated, how often, and how workers come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import (
    InvalidCheckpoint,
    InvalidInstallation,
    InvalidLayout,
    InvalidRequest,
    OutOfMemory,
    RinglightError,
    WorkerError,
)
from ringlight.core.settings import Scheduling
from ringlight.engine import runner
from ringlight.engine.job_state import RECOVERING
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.replica import Lost, Receive
from tests.engine.processes import wait_until
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

PATIENCE = 10.0


class Mortal(FakeReplica):
    """Its workers die under jobs that `kill` names, and are to be started again."""

    def __init__(self, kill: Callable[[messages.RunJob], RinglightError | None]) -> None:
        super().__init__()
        self._kill = kill

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        error = self._kill(job)
        if error is None:
            return super().run(job, receive, lost)
        self.events.append(f"die {job.request.prompt}")
        self.ready = False
        receive(messages.StageStarted(job_id=job.job_id, stage="Denoising"))
        receive(messages.StepFinished(job_id=job.job_id, step=3, num_steps=4, seconds=0.1))
        receive(messages.StateSaved(job_id=job.job_id, step=2))
        return lost(error)


def dying(times: int, error: RinglightError | None = None) -> Callable[[messages.RunJob], RinglightError | None]:
    """Workers die under the first so many runs of the prompt "poison"."""
    left = [times]

    def kill(job: messages.RunJob) -> RinglightError | None:
        if job.request.prompt != "poison" or not left[0]:
            return None
        left[0] -= 1
        return error or WorkerError("the worker process died (signal 9)")

    return kill


def supervised(tiny: Path, replica: FakeReplica, scheduling: Scheduling = "shortest") -> Engine:
    return Engine(EngineConfig(model_path=str(tiny)), None, replica, scheduling=scheduling, supervised=True)


def kept(folder: Path, **changes: int) -> Submission:
    return Submission(keep=Keep(state_file=str(folder / "state.safetensors"), **changes))


def test_a_job_is_repeated_where_its_state_is_saved(tiny: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    replica = Mortal(dying(1))
    with supervised(tiny, replica) as engine:
        job = engine.submit(
            small(engine, "poison"),
            str(tmp_path / "a.mp4"),
            lambda job: seen.append((job.state.stage, job.state.step, job.state.progress)),
            submission=kept(tmp_path),
        )
        job.wait(PATIENCE)
        assert job.state.deaths == 1
    # It goes on after the second step, and says no less than it did.
    ((step, progress),) = {(step, progress) for stage, step, progress in seen if stage == RECOVERING}
    assert step == 2 and progress == max(p for stage, _, p in seen[: seen.index((RECOVERING, step, progress))]) > 0
    assert [progress for *_, progress in seen] == sorted(progress for *_, progress in seen)
    assert replica.events == ["start", "die poison", "start", "run poison", "close"]


def test_a_job_without_a_place_to_keep_its_state_fails(tiny: Path, tmp_path: Path) -> None:
    with supervised(tiny, Mortal(dying(1))) as engine, pytest.raises(WorkerError, match="signal 9"):
        engine.submit(small(engine, "poison"), str(tmp_path / "a.mp4")).wait(PATIENCE)


def test_a_job_that_kills_its_workers_lets_the_others_pass_and_fails_in_the_end(tiny: Path, tmp_path: Path) -> None:
    all_wait, kills = threading.Event(), dying(99)

    def kill(job: messages.RunJob) -> RinglightError | None:
        assert all_wait.wait(PATIENCE)
        return kills(job)

    replica = Mortal(kill)
    output = str(tmp_path / "a.mp4")
    with supervised(tiny, replica, "arrival") as engine:
        poison = engine.submit(small(engine, "poison"), output, submission=kept(tmp_path))
        others = [engine.submit(small(engine, name), output, submission=kept(tmp_path)) for name in "abc"]
        all_wait.set()
        for other in others:
            other.wait(PATIENCE)
        with pytest.raises(WorkerError, match="repeated 2 times; the worker process died"):
            poison.wait(PATIENCE)
    ran = [event for event in replica.events if event.startswith(("run", "die"))]
    assert ran == ["die poison", "die poison", "run a", "run b", "run c", "die poison"]


@pytest.mark.parametrize(("max_repeats", "runs"), [(0, 1), (1, 2), (2, 3)])
def test_the_number_of_repeats_is_bounded(tiny: Path, tmp_path: Path, max_repeats: int, runs: int) -> None:
    replica = Mortal(dying(99))
    with supervised(tiny, replica) as engine, pytest.raises(WorkerError):
        engine.submit(
            small(engine, "poison"), str(tmp_path / "a.mp4"), submission=kept(tmp_path, max_repeats=max_repeats)
        ).wait(PATIENCE)
    assert replica.events.count("die poison") == runs


@pytest.mark.parametrize("error", [WorkerError("signal 9"), OutOfMemory("rank 1: out of memory")])
def test_workers_that_had_not_begun_a_job_are_lost_twice_before_it_fails(
    tiny: Path, tmp_path: Path, error: RinglightError
) -> None:
    """They may have been lost before it was sent: also a job that cannot be kept is begun anew, and once."""

    class Gone(FakeReplica):
        left = 1

        def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
            if not self.left:
                return super().run(job, receive, lost)
            self.left -= 1
            self.ready = False
            return lost(error)

    replica = Gone()
    with Engine(EngineConfig(model_path=str(tiny)), None, replica) as engine:
        engine.submit(small(engine), str(tmp_path / "a.mp4")).wait(PATIENCE)
        assert replica.events.count("start") == 2
        replica.left = 2
        with pytest.raises(type(error), match=str(error)):
            engine.submit(small(engine), str(tmp_path / "a.mp4")).wait(PATIENCE)


def test_what_a_repeat_would_not_mend_is_not_repeated(tiny: Path, tmp_path: Path) -> None:
    """One rank that is out of memory ends its group, and would again."""
    replica = Mortal(dying(1, OutOfMemory("rank 1: out of memory")))
    with supervised(tiny, replica) as engine, pytest.raises(OutOfMemory):
        engine.submit(small(engine, "poison"), str(tmp_path / "a.mp4"), submission=kept(tmp_path)).wait(PATIENCE)
    assert replica.events.count("die poison") == 1


def test_a_job_cancelled_while_its_workers_die_is_cancelled(tiny: Path, tmp_path: Path) -> None:
    engine_: list[Engine] = []
    job_: list[Job] = []

    def kill(job: messages.RunJob) -> RinglightError:
        wait_until(lambda: job_)
        engine_[0].cancel(job_[0])
        return WorkerError("the worker process died (signal 9)")

    with supervised(tiny, Mortal(kill)) as engine:
        engine_.append(engine)
        job_.append(engine.submit(small(engine), str(tmp_path / "a.mp4"), submission=kept(tmp_path)))
        with pytest.raises(RinglightError, match="cancelled"):
            job_[0].wait(PATIENCE)


def test_idle_workers_that_are_lost_come_back_without_a_job(tiny: Path) -> None:
    replica = FakeReplica()
    with supervised(tiny, replica) as engine:
        engine.start()
        replica.ready = False
        wait_until(lambda: replica.events.count("start") == 2)
        (state,) = engine.replicas
        assert (state.name, state.restarts) == ("replica-0", 1)


class StartsAtLast(FakeReplica):
    """Fails to start a few times."""

    def __init__(self, failures: int, error: RinglightError) -> None:
        super().__init__()
        self._failures = failures
        self._error = error

    def start(self) -> messages.WorkerReady:
        if self.events.count("fail") < self._failures:
            self.events.append("fail")
            raise self._error
        return super().start()


@pytest.mark.slow
def test_jobs_wait_until_workers_can_be_started(tiny: Path, tmp_path: Path) -> None:
    replica = StartsAtLast(2, WorkerError("the device is busy"))
    with supervised(tiny, replica) as engine:
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"), submission=kept(tmp_path))
        job.wait(PATIENCE)
    assert replica.events[:3] == ["fail", "fail", "start"]
    assert job.state.deaths == 0


@pytest.mark.parametrize(
    "error",
    [
        InvalidCheckpoint("weights: missing"),
        InvalidInstallation("weights: missing"),
        InvalidRequest.of("weights", "missing"),  # the smallest video, which is made at the start
    ],
    ids=lambda error: error.code,
)
def test_workers_that_can_never_start_are_not_tried_again_and_harm_no_job(
    tiny: Path, tmp_path: Path, error: RinglightError
) -> None:
    replica = StartsAtLast(99, error)
    with supervised(tiny, replica) as engine:
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"), submission=kept(tmp_path))
        wait_until(lambda: engine.failure is not None)
        (state,) = engine.replicas
        assert (state.status, state.problem) == ("failed", "weights: missing")
        assert job.state.status == "queued"
        engine.close(abandon=True)
    assert replica.events.count("fail") == 1


class StartsAgainAtLast(FakeReplica):
    """Starts, and the next time fails as it is told, so often."""

    def __init__(self, failures: int, error: RinglightError) -> None:
        super().__init__()
        self._left = failures
        self._error = error

    def start(self) -> messages.WorkerReady:
        if "start" in self.events and self._left:
            self._left -= 1
            self.events.append("fail")
            raise self._error
        return super().start()


@pytest.mark.parametrize("error", [InvalidLayout("a device is gone"), InvalidInstallation("torch is not installed")])
def test_what_has_run_before_is_tried_again(tiny: Path, monkeypatch: pytest.MonkeyPatch, error: RinglightError) -> None:
    """Only a first start can be hopeless: a device, a disk or another machine may come back."""
    monkeypatch.setattr(runner, "FIRST_PAUSE_SECONDS", 0.01)
    replica = StartsAgainAtLast(2, error)
    with supervised(tiny, replica) as engine:
        engine.start()
        replica.ready = False
        wait_until(lambda: replica.events.count("start") == 2)
        assert replica.events.count("fail") == 2


def test_another_checkpoint_than_before_is_hopeless(tiny: Path) -> None:
    replica = StartsAgainAtLast(99, InvalidCheckpoint("is not the checkpoint that this was started with"))
    with supervised(tiny, replica) as engine:
        engine.start()
        replica.ready = False
        wait_until(lambda: engine.replicas[0].status == "failed")
    assert replica.events.count("fail") == 1


def test_a_job_that_did_not_fit_hears_what_would(tiny: Path, tmp_path: Path) -> None:
    """From the memory that the workers have told of, whether one rank ran out or all did."""

    class Small(Mortal):
        def start(self) -> messages.WorkerReady:
            ready = super().start()
            told = {"device_type": "cpu", "memory_bytes": 340 * 2**20, "dtype": "float32", "vae_dtype": "float32"}
            return messages.WorkerReady(environment=told, load_seconds=ready.load_seconds)

    with supervised(tiny, Small(dying(1, OutOfMemory("rank 1: does not fit")))) as engine:
        job = engine.submit(small(engine, "poison", num_frames=81, width=512, height=320), str(tmp_path / "a.mp4"))
        with pytest.raises(OutOfMemory, match=r"does not fit; predicted to fit with --.*GiB\)"):
            job.wait(PATIENCE)
