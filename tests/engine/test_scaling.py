"""As many replicas as the line asks for: an engine's own on a clock that is set, beside the planner's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import InvalidLayout, WorkerError
from ringlight.core.replicas import ReplicaRange
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.replica import Replica
from ringlight.engine.site import OwnMachine
from ringlight.planner.elastic import Elastic
from ringlight.planner.queueing import play
from ringlight.planner.scheduling import Candidate, Policy
from ringlight.planner.task import Service, Task
from tests.core.clocks import SetClock
from tests.engine.processes import wait_until
from tests.engine.queues import a_queue
from tests.engine.replicas import FakeReplica, TurningReplica
from tests.engine.requests import small
from tests.engine.scene import CLIP, PATIENCE, Scene, done

START_SECONDS, STEP_SECONDS, NUM_STEPS = 20.0, 0.5, 200
JOB_SECONDS = STEP_SECONDS * NUM_STEPS


class TimedReplica(TurningReplica):
    """Starts and denoises as fast as a clock says that has been set."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__(step_seconds=STEP_SECONDS)
        self.clock = clock
        self._is_closed = threading.Event()
        self.stop = self._is_too_early
        self._begun = 0.0

    @property
    def steps_by_now(self) -> int:
        """Of the job that has the turn, as far as it can have come."""
        return min(NUM_STEPS, int((self.clock.monotonic() - self._begun) / STEP_SECONDS))

    def tell(self) -> None:
        """The clock has gone on."""
        self.stop_at(self._is_too_early)

    def start(self) -> messages.WorkerReady:
        began = self.clock.monotonic()
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._is_closed.is_set() or self.clock.monotonic() - began >= START_SECONDS, PATIENCE * 6
            ):
                raise WorkerError("the clock stands still")
        if self._is_closed.is_set():
            raise WorkerError("the engine is closed")
        return super().start()

    def close(self, at_once: bool = False) -> None:
        self._is_closed.set()
        super().close(at_once)

    def _take_turn(self, job_id: str) -> None:
        self._begun = self.clock.monotonic()
        super()._take_turn(job_id)

    def _is_too_early(self, prompt: str, step: int) -> bool:
        return step >= self.steps_by_now


class Timed:
    """A source of them."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.made: list[TimedReplica] = []

    def make(self, number: int) -> Replica:
        self.made.append(TimedReplica(self.clock))
        return self.made[-1]

    def close(self) -> None:
        """They share nothing."""


class Lab:
    """An engine before them whose number is looked at when the clock goes on, and only then."""

    def __init__(self, tiny: Path, folder: Path, asked: ReplicaRange) -> None:
        self.folder = folder
        self.clock = SetClock()
        self.source = Timed(self.clock)
        config = EngineConfig(model_path=str(tiny))
        self.engine = Engine(config, source=self.source, num_replicas=asked, supervised=True, clock=self.clock)
        self.engine.start(wait=False)
        self.engine._scaling.close()  # it would look by itself
        self.jobs: list[Job] = []

    @property
    def statuses(self) -> list[str]:
        return [replica.status for replica in self.engine.replicas]

    def submit(self) -> Job:
        number = len(self.jobs)
        keep = Keep(state_file=str(self.folder / f"{number}.state"))
        request = small(self.engine, str(number), num_inference_steps=NUM_STEPS)
        job = self.engine.submit(request, str(self.folder / f"{number}.mp4"), submission=Submission(keep=keep))
        self.jobs.append(job)
        return job

    def go_on(self, seconds: float = 1.0) -> None:
        """Let time pass, wait until all have done what they can by then, and look."""
        self.clock.goes_on(seconds)
        for replica in self.source.made:
            replica.tell()
        wait_until(self._is_settled, PATIENCE, 0.001)
        self.engine._scaling.look()

    def keep_busy(self, number: int) -> None:
        """A job for each of so many replicas, the second one once it is known how long the first one takes."""
        for _ in range(number):
            self.submit()
            for _ in range(int(2 * START_SECONDS)):
                self.go_on()
        assert self.statuses == ["busy"] * number

    def _is_settled(self) -> bool:
        now = self.clock.monotonic()
        runners = list(self.engine._runners)
        for runner in runners:
            turn, replica, since = runner.holding.turn, runner.replica, runner.holding.starts_since
            assert isinstance(replica, TimedReplica)
            if since is not None and now - since >= START_SECONDS:
                return False
            if turn is not None and (turn.job.state.is_over or turn.job.state.step < replica.steps_by_now):
                return False
            if turn is not None and turn.job.state.step == NUM_STEPS:
                return False
        is_free = any(runner.holding.is_serving and runner.holding.turn is None for runner in runners)
        return not (is_free and len(self.engine.queue))


@contextmanager
def lab(tiny: Path, folder: Path, asked: ReplicaRange) -> Iterator[Lab]:
    made = Lab(tiny, folder, asked)
    try:
        yield made
    finally:
        made.engine.close()


SCRIPT: Mapping[int, int] = {0: 1, 300: 4, 330: 1, 800: 2, 805: 2}
"""How many jobs come at which second."""
ASKED = ReplicaRange(0, 3, scale_up_wait=50.25, scale_down_idle=120.0)


def expected(script: Mapping[int, int], asked: ReplicaRange) -> tuple[list[tuple[float, int]], list[float]]:
    """How many replicas the planner has from when on, and when jobs are over."""
    arrivals = [float(at) for at, count in script.items() for _ in range(count)]
    tasks = [
        Task(
            job=Candidate(key=str(number), arrival=number, rest_seconds=JOB_SECONDS, whole_seconds=JOB_SECONDS),
            service=Service(num_steps=NUM_STEPS, step_seconds=STEP_SECONDS),
            arrives=at,
        )
        for number, at in enumerate(arrivals)
    ]
    fleet = Elastic(asked, START_SECONDS)
    play(tasks, [], Policy(), fleet=fleet)
    return fleet.counts, sorted(task.end for task in tasks)


def test_an_engine_and_the_planner_have_as_many_at_the_same_seconds(tiny: Path, tmp_path: Path) -> None:
    counts, ends = expected(SCRIPT, ASKED)
    assert max(count for _, count in counts) == 3
    with lab(tiny, tmp_path, ASKED) as real:
        found, over = [(0.0, 0)], list[float]()
        for now in range(int(ends[-1]) + 1):
            if now:
                real.go_on()
            for _ in range(SCRIPT.get(now, 0)):
                real.submit()
            real.engine._scaling.look()
            over += [float(now)] * (sum(job.state.is_over for job in real.jobs) - len(over))
            if len(real.engine.replicas) != found[-1][1]:
                found.append((float(now), len(real.engine.replicas)))
    assert over == ends
    assert found == [each for each in counts if each[0] <= ends[-1]]


def test_one_that_has_a_job_is_never_ended(tiny: Path, tmp_path: Path) -> None:
    with lab(tiny, tmp_path, ReplicaRange(0, 2, scale_up_wait=1.0, scale_down_idle=5.0)) as real:
        real.keep_busy(2)
        assert real.statuses == ["busy", "busy"]
        real.engine.cancel(real.jobs[0])
        wait_until(lambda: sorted(real.statuses) == ["busy", "ready"], PATIENCE)
        for _ in range(6):
            real.go_on()
        assert real.statuses == ["busy"]
        assert not real.jobs[1].state.is_over


def test_whoever_waits_for_a_start_is_told_so(tiny: Path, tmp_path: Path) -> None:
    with lab(tiny, tmp_path, ReplicaRange(0, 1, scale_down_idle=5.0)) as real:
        first = real.submit()
        real.engine._scaling.look()
        for _ in range(int(START_SECONDS + JOB_SECONDS) + 6):
            real.go_on()
        assert (first.state.status, real.engine.replicas) == ("completed", [])
        second = real.submit()
        assert real.engine.position(second) == 1
        real.engine._scaling.look()
        wait_until(lambda: real.engine.eta_seconds(second) == pytest.approx(START_SECONDS + JOB_SECONDS), PATIENCE)


def test_numbers_that_are_free_are_given_again(tiny: Path, tmp_path: Path) -> None:
    with lab(tiny, tmp_path, ReplicaRange(0, 2, scale_up_wait=1.0, scale_down_idle=5.0)) as real:
        real.keep_busy(2)
        first = next(job for job in real.jobs if job.state.replica == "replica-0")
        real.engine.cancel(first)
        wait_until(lambda: real.statuses == ["ready", "busy"], PATIENCE)
        for _ in range(6):
            real.go_on()
        assert [each.name for each in real.engine.replicas] == ["replica-1"]
        real.submit()
        real.engine._scaling.look()
        assert [each.name for each in real.engine.replicas] == ["replica-1", "replica-0"]


class Impatient(FakeReplica):
    """Its start ends with an error that is said by and by, or when it is closed."""

    def __init__(self, problem: Callable[[], BaseException | None]) -> None:
        super().__init__()
        self._problem = problem
        self._is_closed = threading.Event()

    def start(self) -> messages.WorkerReady:
        self.events.append("start")
        if (problem := self._problem()) is not None:
            raise problem
        assert self._is_closed.wait(PATIENCE)
        raise WorkerError("the engine is closed")

    def close(self, at_once: bool = False) -> None:
        super().close(at_once)
        self._is_closed.set()


class Few:
    """A source with room for one, which says of others why they are not to be had."""

    def __init__(self, problem: BaseException | None) -> None:
        self.others: list[Impatient] = []
        self._problem = problem

    def make(self, number: int) -> Replica:
        if not number:
            return FakeReplica(held=True)
        self.others.append(Impatient(lambda: self._problem))
        return self.others[-1]

    def close(self) -> None:
        """They share nothing."""


def scarce(tiny: Path, source: Few, **waits: float) -> Engine:
    asked = ReplicaRange(1, 2, scale_up_wait=1e-9, **waits)
    return Engine(EngineConfig(model_path=str(tiny)), source=source, num_replicas=asked, supervised=True)


def test_one_that_cannot_be_had_says_why_and_is_tried_again(tiny: Path, tmp_path: Path) -> None:
    source = Few(WorkerError("no room for 1 x GPU"))
    with scarce(tiny, source) as engine:
        for number in range(2):
            engine.submit(small(engine, str(number)), str(tmp_path / f"{number}.mp4"))
        wait_until(lambda: len(engine.replicas) == 2 and source.others[0].events.count("start") > 1, PATIENCE)
        assert engine.num_wanted == 2
        assert [(each.status, each.problem) for each in engine.replicas] == [
            ("busy", ""),
            ("lost", "no room for 1 x GPU"),
        ]
        assert engine.failure is None


def test_one_is_closed_in_the_middle_of_its_start(tiny: Path, tmp_path: Path) -> None:
    source = Few(None)
    with scarce(tiny, source, scale_down_idle=0.0) as engine:
        jobs = [engine.submit(small(engine, str(number)), str(tmp_path / f"{number}.mp4")) for number in range(2)]
        wait_until(lambda: [each.status for each in engine.replicas] == ["busy", "starting"], PATIENCE)
        engine.cancel(jobs[1])
        wait_until(lambda: [each.status for each in engine.replicas] == ["busy"], PATIENCE)
        wait_until(lambda: source.others[0].events == ["start", "close"], PATIENCE)


def test_what_can_never_start_is_left_at_that(tiny: Path, tmp_path: Path) -> None:
    source = Few(InvalidLayout("there is no GPU 1"))
    with scarce(tiny, source) as engine:
        for number in range(2):
            engine.submit(small(engine, str(number)), str(tmp_path / f"{number}.mp4"))
        wait_until(lambda: [each.status for each in engine.replicas] == ["busy", "failed"], PATIENCE)
        assert source.others[0].events == ["start"]


def test_a_drain_wakes_nobody(tiny: Path, tmp_path: Path) -> None:
    config = EngineConfig(model_path=str(tiny))
    with Engine(config, source=Timed(SetClock()), num_replicas=ReplicaRange(0, 1), supervised=True) as engine:
        engine.start(wait=False)
        assert engine.drain(0.0)
        wait_until(lambda: not engine._scaling._thread.is_alive(), PATIENCE)
        engine.submit(small(engine, "late"), str(tmp_path / "late.mp4"))
        assert engine.replicas == []


@pytest.mark.parametrize(("keeps", "saved", "may_leave"), [(True, 7, True), (True, 6, False), (False, 7, False)])
def test_a_replica_goes_only_where_others_can_go_on_with_what_it_keeps(
    scene: Scene, keeps: bool, saved: int, may_leave: bool
) -> None:
    job = scene.submit("film", CLIP, keeps=keeps)
    done(job)
    film = Job(job.id, job.request, job.layout, job.output, lambda job: None, job.submission, came_at=0.0)
    queue = a_queue()
    holding = queue.serve("replica-0")
    film.receive(messages.StepFinished(job_id=job.id, step=7, num_steps=9, seconds=0.5))
    film.receive(messages.StateSaved(job_id=job.id, step=saved))
    queue.put(film)
    ticket = queue.take(holding, 0.0)
    assert ticket is not None and queue.leave(holding) is None  # it has the turn
    queue.hold(ticket, 1)
    assert queue.leave(holding) == ([ticket] if may_leave else None)
    assert (queue.take(holding, 0.0) is None) == may_leave


def test_as_many_as_there_is_room_for(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnMachine, "room", lambda site: 8)
    with lab(tiny, tmp_path, ReplicaRange(1, 1)) as real:
        config = real.engine.config
        with Engine(config, source=Timed(SetClock()), num_replicas=None) as engine:
            assert (engine.size.least, engine.size.most, len(engine.replicas)) == (8, 8, 8)
