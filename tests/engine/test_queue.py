"""The order in which jobs are taken, and who is turned away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core.errors import Cancelled, DeadlineExceeded, QueueFull
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.engine.engine import TICK_SECONDS
from ringlight.engine.job_state import JobState, Taken
from ringlight.engine.jobs import Job, Submission
from tests.core.clocks import SetClock
from tests.engine.processes import wait_until
from tests.engine.queues import a_queue
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

PATIENCE = 10.0


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "film.mp4")


def engine_with(tiny: Path, replica: FakeReplica, **settings: Any) -> Engine:
    return Engine(EngineConfig(model_path=str(tiny)), None, replica, **settings)


def test_higher_priorities_go_first_and_equal_ones_by_arrival(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica) as engine:
        first = engine.submit(small(engine, "first"), output)
        assert replica.in_the_middle.wait(PATIENCE)
        order = {"a": 0, "b": 5, "c": 0, "d": -1, "e": 5}
        jobs = [
            engine.submit(small(engine, name), output, submission=Submission(priority=priority))
            for name, priority in order.items()
        ]
        assert [engine.position(job) for job in jobs] == [3, 1, 4, 5, 2]
        assert engine.position(first) == 0
        replica.go_on.set()
        for job in [first, *jobs]:
            job.wait(PATIENCE)
        assert engine.position(first) is None
    assert [event[4:] for event in replica.events if event.startswith("run")] == ["first", "b", "e", "a", "c", "d"]


def test_nobody_waits_at_a_queue_that_is_closed() -> None:
    queue = a_queue()
    replica = queue.serve("replica-0")
    waiting = threading.Thread(target=queue.take, args=[replica, 600.0], daemon=True)
    waiting.start()
    queue.close()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert queue.take(replica, 600.0) is None


def test_jobs_whose_workers_died_twice_go_last(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica) as engine:
        engine.submit(small(engine, "first"), output)
        assert replica.in_the_middle.wait(PATIENCE)
        first = Submission(priority=9, state=JobState(deaths=2))
        suspect = engine.submit(small(engine, "suspect"), output, submission=first)
        once = engine.submit(small(engine, "once"), output, submission=Submission(state=JobState(deaths=1)))
        other = engine.submit(small(engine, "other"), output)
        assert [engine.position(job) for job in (suspect, once, other)] == [3, 1, 2]


@pytest.mark.parametrize("queue_size", [0, 1, 3])
def test_a_full_queue_takes_what_runs_and_its_size_whatever_comes_at_once(
    tiny: Path, output: str, queue_size: int
) -> None:
    replica = FakeReplica(held=True)
    accepted: list[Job] = []
    refused: list[QueueFull] = []
    with engine_with(tiny, replica, queue_size=queue_size) as engine:
        request = small(engine)

        def submit() -> None:
            try:
                accepted.append(engine.submit(request, output))
            except QueueFull as error:
                refused.append(error)

        threads = [threading.Thread(target=submit) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(accepted), len(refused)) == (queue_size + 1, 40 - queue_size - 1)
        assert all(error.retry_seconds >= 1 for error in refused)
        wait_until(replica.in_the_middle.is_set)
        engine.cancel(accepted[-1])  # whether it runs or waits, there is a place now
        with pytest.raises(Cancelled):
            accepted[-1].wait(PATIENCE)
        engine.submit(request, output)


def test_what_the_acceptance_raises_is_raised_and_frees_the_place(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica, queue_size=1) as engine:
        engine.submit(small(engine, "runs"), output)
        assert replica.in_the_middle.wait(PATIENCE)

        def refuse(job: Job) -> None:
            raise OSError("no room on the disk")

        for _ in range(3):
            with pytest.raises(OSError, match="no room"):
                engine.submit(small(engine, "never"), output, accept=refuse)
        engine.submit(small(engine, "waits"), output)
        with pytest.raises(QueueFull):
            engine.submit(small(engine), output, accept=refuse)


def test_a_deadline_ends_jobs_that_wait_and_jobs_that_run(tiny: Path, output: str) -> None:
    replica, clock = FakeReplica(held=True), SetClock()
    with engine_with(tiny, replica, clock=clock) as engine:
        running = engine.submit(small(engine, "runs"), output, submission=Submission(timeout_seconds=3456.0))
        assert replica.in_the_middle.wait(PATIENCE)
        late = Submission(timeout_seconds=9000.0, spent_seconds=9000.0)
        waiting = engine.submit(small(engine, "late"), output, submission=late)
        with pytest.raises(DeadlineExceeded, match=r"not made in the 9000 s that it was given"):
            waiting.wait(PATIENCE)
        clock.goes_on(3455.0)
        with pytest.raises(TimeoutError):
            running.wait(2 * TICK_SECONDS)
        clock.goes_on(1.0)
        with pytest.raises(DeadlineExceeded, match=r"not made in the 3456 s that it was given"):
            running.wait(PATIENCE)
    assert "run late" not in replica.events


@pytest.mark.parametrize("jump_seconds", [30 * 86400.0, -30 * 86400.0])
def test_a_wall_clock_that_is_set_ends_no_job_and_spares_none(tiny: Path, output: str, jump_seconds: float) -> None:
    replica, clock = FakeReplica(held=True), SetClock()
    with engine_with(tiny, replica, clock=clock) as engine:
        job = engine.submit(small(engine), output, submission=Submission(timeout_seconds=3000.0))
        assert replica.in_the_middle.wait(PATIENCE)
        clock.is_set(jump_seconds)
        with pytest.raises(TimeoutError):
            job.wait(2 * TICK_SECONDS)
        clock.goes_on(3000.0)
        with pytest.raises(DeadlineExceeded, match="3000 s"):
            job.wait(PATIENCE)


@pytest.mark.parametrize(
    ("asked", "guidance_scale", "layout", "reason"),
    [
        (AskedLayout(), 5.0, None, "u1r1: one rank has nothing to split"),
        (AskedLayout(num_gpus=2, cfg_degree=2), 5.0, None, "c2u1r1: "),
        (AskedLayout(num_gpus=2, cfg_degree=2), 1.0, None, "u2r1: without guidance both branches of c2u1r1 share its"),
        (AskedLayout(num_gpus=2, cfg_degree=2), 5.0, "u1r2", "u1r2: as the request asks, instead of c2u1r1"),
    ],
)
def test_the_report_says_why_the_layout_is_this_one(
    tiny: Path, output: str, asked: AskedLayout, guidance_scale: float, layout: str | None, reason: str
) -> None:
    with Engine(EngineConfig(model_path=str(tiny), asked_layout=asked), None, FakeReplica()) as engine:
        request = small(engine, guidance_scale=guidance_scale)
        job = engine.submit(request, output, layout=None if layout is None else ParallelLayout.parse(layout))
        report = job.wait(PATIENCE)
    assert report.layout_reason.startswith(reason)
    assert layout is not None or guidance_scale == 1.0 or report.layout_reason == engine.choice.reason


def test_draining_starts_nothing_and_waits_for_what_runs(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica) as engine:
        running, waiting = (engine.submit(small(engine, prompt), output) for prompt in "ab")
        assert replica.in_the_middle.wait(PATIENCE)
        assert not engine.drain(0.05)
        threading.Timer(0.2, replica.go_on.set).start()
        assert engine.drain(PATIENCE)
        assert running.state.status == "completed"
        assert waiting.state.status == "queued"


@pytest.mark.parametrize(
    "is_seen", [False, True], ids=["at the end", "as soon as a thread sees that the engine closes"]
)
def test_an_abandoned_job_tells_nobody_of_its_end(
    tiny: Path, output: str, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    told: list[str] = []
    replica = FakeReplica(held=True)
    engine = engine_with(tiny, replica)
    jobs = [engine.submit(small(engine, p), output, lambda job: told.append(job.state.status)) for p in "ab"]
    assert replica.in_the_middle.wait(PATIENCE)
    before = list(told)
    close_queue = engine.queue.close

    def seen() -> None:
        jobs[1].fail(Cancelled("the engine was closed"))
        close_queue()

    if is_seen:
        monkeypatch.setattr(engine.queue, "close", seen)
    engine.close(abandon=True)
    assert told == before
    assert "completed" not in told
    assert "failed" not in told
    for job in jobs:
        assert not job.state.is_over  # whoever has still to write down how it stands finds that
        with pytest.raises(Cancelled, match="another process"):
            job.wait(PATIENCE)


def test_an_eta_is_as_planned_times_what_a_step_took_until_a_video_was_measured(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica) as engine:
        running, waiting = (engine.submit(small(engine, prompt), output) for prompt in "ab")
        assert replica.in_the_middle.wait(PATIENCE)
        assert running.prediction is not None and waiting.prediction is not None
        factor = 4 * 0.5 / (running.prediction.seconds("Denoising") or 0.0)  # of four steps each took half a second
        assert engine.eta_seconds(waiting) == pytest.approx(
            engine.eta_seconds(running) + factor * waiting.prediction.total_seconds  # type: ignore[operator]
        )
        replica.go_on.set()


def test_an_eta_falls_while_the_first_step_runs(tiny: Path) -> None:
    engine = Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica())
    request = small(engine)
    found = engine._foresight.plan(request, engine.choice.layout)
    job = Job(
        "video_1",
        request,
        engine.choice.layout,
        "a.mp4",
        None,
        prediction=found,
        plan=JobPlan(predicted=found.report("here")),
    )
    assert engine.pace.remaining_seconds(job) == found.total_seconds
    job.receive(Taken(job_id=job.id, replica="replica-0"))
    assert 0 <= (engine.pace.remaining_seconds(job) or 0.0) < found.total_seconds


def test_nothing_is_planned_on_a_machine_that_is_not_known(tiny: Path, output: str) -> None:
    replica = FakeReplica(held=True)
    config = EngineConfig(model_path=str(tiny), device="cuda")  # which no test machine has
    with Engine(config, None, replica) as engine:
        running, waiting = (engine.submit(small(engine, prompt), output) for prompt in "ab")
        assert replica.in_the_middle.wait(PATIENCE)
        assert engine.eta_seconds(waiting) is None
        replica.go_on.set()
        assert running.wait(PATIENCE).predicted is None
        assert waiting.wait(PATIENCE).predicted is None


def test_an_eta_comes_from_what_was_measured(tiny: Path, output: str) -> None:
    replica = FakeReplica()
    with engine_with(tiny, replica) as engine:
        job = engine.submit(small(engine), output)
        job.wait(PATIENCE)
        assert engine.eta_seconds(job) is None
        replica.go_on.clear()
        replica.in_the_middle.clear()
        running, waiting = (engine.submit(small(engine, prompt, num_inference_steps=4), output) for prompt in "ab")
        assert replica.in_the_middle.wait(PATIENCE)
        # Two of four steps of half a second are done, and a report has told 0.5 s a step and 0 s for all else.
        assert engine.eta_seconds(running) == pytest.approx(1.0)
        assert engine.eta_seconds(waiting) == pytest.approx(3.0)
        replica.go_on.set()


@pytest.mark.parametrize(("max_slowdown", "positions"), [(0.0, [2, 1]), (20.0, [1, 2])])
def test_one_that_has_waited_too_long_is_not_overtaken_where_that_is_bounded(
    tiny: Path, output: str, max_slowdown: float, positions: list[int]
) -> None:
    replica, clock = FakeReplica(held=True), SetClock()
    with engine_with(tiny, replica, clock=clock, max_slowdown=max_slowdown) as engine:
        running = engine.submit(small(engine, "runs"), output)
        assert replica.in_the_middle.wait(PATIENCE)
        film = engine.submit(small(engine, "film", num_inference_steps=400), output)
        clock.goes_on(86_400.0)
        clip = engine.submit(small(engine, "clip"), output)
        assert [engine.position(job) for job in (film, clip)] == positions
        replica.go_on.set()
        for job in (running, film, clip):
            job.wait(PATIENCE)
