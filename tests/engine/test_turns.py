"""Jobs that make way for others, before replicas without processes: who, for whom, and what becomes of them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import Cancelled, DeadlineExceeded, WorkerError
from ringlight.engine import holding
from ringlight.engine.jobs import PAUSED, RECOVERING, Job, JobState, Keep, Released, Submission, fold
from ringlight.engine.replica import Lost, Receive, Replica
from tests.core.clocks import SetClock
from tests.engine.processes import wait_until
from tests.engine.replicas import TurningReplica
from tests.engine.requests import small

PATIENCE = 10.0
FILM, CLIP = {"num_inference_steps": 400}, {"num_inference_steps": 2}


class Several(Engine):
    """An engine of several doubles."""

    doubles: Sequence[Replica] = ()

    def _replicas(self, number: int) -> Sequence[Replica]:
        return self.doubles


class Scene:
    """An engine before replicas that denoise step by step, and what is asked of it."""

    def __init__(self, tiny: Path, folder: Path, *replicas: TurningReplica, **settings: Any) -> None:
        self.folder = folder
        self.replicas = replicas or (TurningReplica(),)
        engine = type("Doubled", (Several,), {"doubles": self.replicas})
        settings = {"supervised": True} | settings
        self.engine: Engine = engine(EngineConfig(model_path=str(tiny)), num_replicas=len(self.replicas), **settings)

    @property
    def replica(self) -> TurningReplica:
        (replica,) = self.replicas
        return replica

    @property
    def events(self) -> list[str]:
        """What its replica did, but for its start and end."""
        return [event for event in self.replica.events if event not in ("start", "close")]

    def stop(self, prompt: str, step: int) -> None:
        """No replica goes on with a job of this prompt after so many steps, until they are told otherwise."""
        for replica in self.replicas:
            before = replica.stop
            replica.stop_at(lambda p, s, before=before: (p, s) == (prompt, step) or before(p, s))  # type: ignore[misc]

    def go_on(self) -> None:
        for replica in self.replicas:
            replica.stop_at()

    def submit(self, prompt: str, kind: dict[str, int], keeps: bool = True, **asked: Any) -> Job:
        keep = Keep(state_file=str(self.folder / f"{prompt}.state")) if keeps else None
        request, output = small(self.engine, prompt, **kind), str(self.folder / f"{prompt}.mp4")
        return self.engine.submit(request, output, submission=Submission(keep=keep, **asked))

    def film_at(self, step: int, prompt: str = "film", **asked: Any) -> Job:
        """A film that has come so far, and waits there."""
        self.stop(prompt, step)
        film = self.submit(prompt, FILM, **asked)
        wait_until(lambda: film.state.step == step, PATIENCE)
        return film


@pytest.fixture
def scene(tiny: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tiny, tmp_path)
    with scene.engine:
        yield scene


def done(*jobs: Job) -> None:
    for job in jobs:
        job.wait(PATIENCE)


def test_a_long_job_makes_way_for_a_short_one_and_goes_on(scene: Scene) -> None:
    film = scene.film_at(20)
    before = film.state.progress
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    assert (film.state.status, film.state.stage, film.state.step) == ("in_progress", PAUSED, 20)
    assert film.state.progress == before > 0
    assert [scene.engine.position(job) for job in (clip, film)] == [0, 1]
    assert scene.engine.num_paused == 1
    scene.go_on()
    done(clip, film)
    assert scene.events == ["run film", "pause film", "run clip", "resume film"]
    assert film.state.deaths == 0
    assert not scene.replica.is_urged
    report, pauses = film.wait(0), scene.engine.pauses
    assert (pauses.pauses, scene.engine.num_paused) == (1, 0)
    assert 0 < pauses.paused_seconds < PATIENCE
    assert (report.pauses, report.paused_seconds) == (1, pauses.paused_seconds)


def test_five_clips_pause_a_film_as_often_as_they_come(scene: Scene) -> None:
    film, clips = scene.film_at(1), []
    for number in range(5):
        clips.append(scene.submit(f"clip {number}", CLIP))
        scene.stop("film", 2 + number)
        done(clips[-1])
        wait_until(lambda: scene.replica.kept and film.state.stage != PAUSED, PATIENCE)
    scene.go_on()
    done(film)
    assert scene.events.count("pause film") == scene.events.count("resume film") == 5
    assert scene.engine.pauses.pauses == 5


def test_in_the_order_of_arrival_nobody_makes_way(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, scheduling="arrival")
    with scene.engine:
        film = scene.film_at(20)
        clip = scene.submit("clip", CLIP)
        assert scene.engine.position(clip) == 1
        scene.go_on()
        done(film, clip)
    assert scene.events == ["run film", "run clip"]


def test_nobody_makes_way_for_one_that_is_as_long(scene: Scene) -> None:
    film = scene.film_at(0)
    other = scene.submit("other", FILM)
    scene.go_on()
    done(film, other)
    assert scene.events == ["run film", "run other"]


def test_nobody_makes_way_for_one_that_is_alike_because_a_step_was_slow(scene: Scene) -> None:
    done(scene.submit("measured", FILM))
    film = scene.film_at(20)
    other = scene.submit("other", FILM)
    film.receive(messages.StepFinished(job_id=film.id, step=21, num_steps=400, seconds=60.0))
    scene.engine._look()
    assert (scene.engine.eta_seconds(film) or 0.0) >= 60.0 * (400 - 21)  # which is told by its own steps
    scene.go_on()
    done(film, other)
    assert scene.events == ["run measured", "run film", "run other"]


def test_a_higher_priority_goes_first_however_long_it_is(scene: Scene) -> None:
    clip = scene.submit("clip", FILM)
    scene.stop("clip", 398)
    wait_until(lambda: clip.state.step == 398, PATIENCE)
    film = scene.submit("film", FILM, priority=1)
    done(film)
    scene.go_on()
    done(clip)
    assert scene.events == ["run clip", "pause clip", "run film", "resume clip"]
    assert scene.replica.is_urged


def test_one_that_would_be_late_goes_first_however_long_it_is(scene: Scene) -> None:
    film = scene.film_at(100)
    rest = scene.engine.pace.remaining_seconds(film) or 0.0
    longer = scene.submit("longer", {"num_inference_steps": 350}, timeout_seconds=1.5 * rest)
    done(longer)
    scene.go_on()
    done(film)
    assert scene.events == ["run film", "pause film", "run longer", "resume film"]


def test_a_client_that_has_used_more_than_its_share_goes_behind(scene: Scene) -> None:
    scene.stop("first", 1)
    first = scene.submit("first", FILM, priority=1)
    wait_until(lambda: first.state.step == 1, PATIENCE)
    many, other = scene.submit("many", CLIP, client="many"), scene.submit("other", FILM, client="other")
    assert [scene.engine.position(job) for job in (many, other)] == [1, 2]
    scene.engine.queue._order.charge(many, 600.0)
    scene.stop("other", 1)
    scene.go_on()
    done(first, many, other)
    assert scene.events == ["run first", "run other", "run many"]


def test_what_ranks_have_worked_is_charged_to_the_client(tiny: Path, tmp_path: Path) -> None:
    clock, charged = SetClock(), list[tuple[str, float]]()
    scene = Scene(tiny, tmp_path, clock=clock)
    order = scene.engine.queue._order
    order.charge = lambda job, seconds: charged.append((job.submission.client, seconds))  # type: ignore[method-assign]
    with scene.engine:
        film = scene.film_at(20, client="a")
        clock.goes_on(5.0)
        scene.stop("clip", 1)
        clip = scene.submit("clip", CLIP, client="b")
        wait_until(lambda: clip.state.step == 1, PATIENCE)
        clock.goes_on(2.0)
        scene.go_on()
        done(clip, film)
    assert {name: sum(seconds for who, seconds in charged if who == name) for name in "ab"} == {"a": 5.0, "b": 2.0}


def test_a_free_replica_takes_a_newcomer_and_nobody_makes_way(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, TurningReplica(), TurningReplica())
    with scene.engine:
        scene.engine.start()
        wait_until(lambda: all(each.ready for each in scene.replicas), PATIENCE)
        film = scene.film_at(20)
        done(scene.submit("clip", CLIP))
        scene.go_on()
        done(film)
    assert scene.engine.pauses.pauses == 0


def test_of_several_the_one_with_most_left_makes_way_and_one_for_each_newcomer(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, TurningReplica(), TurningReplica())
    with scene.engine:
        scene.engine.start()
        wait_until(lambda: all(each.ready for each in scene.replicas), PATIENCE)
        near, far = scene.film_at(100, "near"), scene.film_at(10, "far")
        for number in (1, 2):
            scene.stop(f"clip {number}", 1)
        first = scene.submit("clip 1", CLIP)
        wait_until(lambda: first.state.step == 1, PATIENCE)
        assert (near.state.stage, far.state.stage) == ("Denoising", PAUSED)
        second = scene.submit("clip 2", CLIP)
        wait_until(lambda: second.state.step == 1, PATIENCE)
        assert near.state.stage == PAUSED
        scene.go_on()
        done(first, second, near, far)
    assert scene.engine.pauses.pauses == 2


def test_what_a_busy_replica_keeps_goes_on_with_a_free_one(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, TurningReplica(), TurningReplica(step_seconds=60.0))
    with scene.engine:
        scene.engine.start()
        wait_until(lambda: all(each.ready for each in scene.replicas), PATIENCE)
        film, other = scene.film_at(100), scene.film_at(200, "other")
        scene.stop("urgent", 1)
        scene.stop("urgent", 2)
        urgent = scene.submit("urgent", FILM, priority=1)
        wait_until(lambda: urgent.state.step == 1, PATIENCE)
        (paused,) = [job for job in (film, other) if job.state.stage == PAUSED]
        (busy,) = [job for job in (film, other) if job is not paused]
        for replica in scene.replicas:
            replica.stop_at(lambda prompt, step: (prompt, step) == ("urgent", 2))
        done(busy, paused)
        assert not urgent.state.is_over
        scene.go_on()
        done(urgent)
    (keeper,) = [each for each in scene.replicas if "run urgent" in each.events]
    assert f"drop {paused.request.prompt}" in keeper.events


def test_a_paused_job_is_cancelled_at_once_and_forgotten(scene: Scene) -> None:
    film = scene.film_at(20)
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    scene.engine.cancel(film)
    with pytest.raises(Cancelled):
        film.wait(0)
    scene.go_on()
    done(clip)
    assert scene.events == ["run film", "pause film", "run clip", "drop film"]
    assert scene.engine.num_paused == 0


def test_a_deadline_ends_a_paused_job(tiny: Path, tmp_path: Path) -> None:
    clock = SetClock()
    scene = Scene(tiny, tmp_path, clock=clock)
    with scene.engine:
        film = scene.film_at(20, timeout_seconds=3000.0)
        scene.stop("clip", 1)
        clip = scene.submit("clip", CLIP)
        wait_until(lambda: clip.state.step == 1, PATIENCE)
        clock.goes_on(3000.0)
        with pytest.raises(DeadlineExceeded):
            film.wait(PATIENCE)
        scene.go_on()
        done(clip)
    assert scene.events[3:] == ["drop film"]


def test_one_that_was_to_make_way_for_a_cancelled_job_is_taken_up_again(scene: Scene) -> None:
    film = scene.film_at(20)
    asked, go_on = threading.Event(), threading.Event()
    pause = scene.replica.pause

    def pause_late(job_id: str, now: bool) -> None:
        asked.set()
        assert go_on.wait(PATIENCE)
        pause(job_id, now)

    scene.replica.pause = pause_late  # type: ignore[method-assign]
    clips: list[Job] = []
    submitting = threading.Thread(target=lambda: clips.append(scene.submit("clip", CLIP)))
    submitting.start()
    assert asked.wait(PATIENCE)
    (clip,) = scene.engine.queue.jobs()
    scene.engine.cancel(clip)
    go_on.set()
    submitting.join()
    scene.go_on()
    done(film)
    assert scene.events in (["run film", "pause film", "resume film"], ["run film"])


def test_one_that_is_cancelled_while_it_makes_way_is_not_kept(scene: Scene) -> None:
    film = scene.film_at(20)
    scene.replica.cancel = lambda job_id: None  # type: ignore[method-assign]  # it comes when the job has made way
    film.ask_to_stop(Cancelled("cancelled"))
    done(scene.submit("clip", CLIP))
    with pytest.raises(Cancelled):
        film.wait(PATIENCE)
    assert scene.events == ["run film", "pause film", "drop film", "run clip"]


def test_workers_that_die_are_held_against_the_job_that_had_the_turn(scene: Scene) -> None:
    film = scene.film_at(20)
    seen: list[tuple[str, int]] = []
    film._on_change = lambda job: seen.append((job.state.stage, job.state.step))
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    scene.replica.die()
    wait_until(lambda: clip.state.deaths == 1 and clip.state.step == 1, PATIENCE)
    scene.go_on()
    done(clip, film)
    assert (clip.state.deaths, film.state.deaths) == (1, 0)
    assert scene.events == ["run film", "pause film", "run clip", "run clip", "run film"]
    assert (PAUSED, 20) in seen and RECOVERING not in {stage for stage, _ in seen}


def test_workers_that_die_idle_lose_nothing_that_they_kept(scene: Scene) -> None:
    """Between two turns: nobody had the turn."""
    film = scene.film_at(20)
    resume = scene.replica.resume

    def die_before(job_id: str) -> None:
        scene.replica.resume = resume  # type: ignore[method-assign]
        scene.replica.die()

    scene.replica.resume = die_before  # type: ignore[method-assign]
    done(scene.submit("clip", CLIP))
    scene.go_on()
    done(film)
    assert film.state.deaths == 0
    assert scene.events == ["run film", "pause film", "run clip", "run film"]


@pytest.mark.parametrize("supervised", [True, False])
def test_workers_that_die_before_a_kept_job_has_its_turn_are_started_for_whoever_is_next(
    tiny: Path, tmp_path: Path, supervised: bool
) -> None:
    """They cannot be at first: that is nothing to the job, which waits in the line again."""
    scene = Scene(tiny, tmp_path, supervised=supervised)
    is_ready, start, tries = scene.replica.is_ready, scene.replica.start, list[str]()

    def die_before_a_film() -> bool:
        turn = scene.engine._runners[0].holding.turn
        if not tries and turn is not None and turn.job.request.prompt == "film" and turn.has_made_way:
            tries.append("die")
            scene.replica.die()
        return is_ready()

    def start_at_last() -> messages.WorkerReady:
        if tries == ["die"]:
            tries.append("fail")
            raise WorkerError("no room")
        return start()

    with scene.engine:
        film = scene.film_at(20)
        scene.replica.is_ready = die_before_a_film  # type: ignore[method-assign]
        scene.replica.start = start_at_last  # type: ignore[method-assign]
        done(scene.submit("clip", CLIP))
        scene.go_on()
        done(film)
    assert tries == ["die", "fail"]
    assert film.state.deaths == 0
    assert scene.events == ["run film", "pause film", "run clip", "run film"]


def test_workers_that_are_lost_and_fail_are_lost_once(scene: Scene) -> None:
    run = scene.replica.run

    def lose_and_fail(job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        scene.replica.run = run  # type: ignore[method-assign]
        scene.replica.ready = False
        lost(WorkerError("the worker process died (signal 9)"))
        raise OSError("a broken pipe")

    scene.replica.run = lose_and_fail  # type: ignore[method-assign]
    job = scene.submit("clip", CLIP)
    done(job)
    assert job.state.deaths == 1


def test_one_that_is_kept_no_more_goes_on_from_what_is_saved() -> None:
    """The disk was full when it made way, say."""
    paused = JobState(status="in_progress", stage=PAUSED, step=12, num_steps=50, saved_step=8, furthest=20)
    after = fold(paused, Released(job_id="video_1"))
    assert (after.step, after.stage, after.progress, after.deaths) == (8, PAUSED, 20, 0)


def test_beyond_the_bound_the_last_one_goes_on_from_its_file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_HELD", 1)
    film, shorter = scene.film_at(10), None
    scene.stop("shorter", 1)
    shorter = scene.submit("shorter", {"num_inference_steps": 100})
    wait_until(lambda: shorter.state.step == 1, PATIENCE)
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    assert [job.state.stage for job in (film, shorter)] == [PAUSED, PAUSED]
    assert film.state.step == film.state.saved_step == 10
    scene.go_on()
    done(clip, shorter, film)
    assert scene.events == [
        "run film", "pause film", "run shorter", "pause shorter", "drop film", "run clip", "resume shorter", "run film",
    ]  # fmt: skip
    assert film.state.deaths == 0


def test_more_bytes_than_the_bound_are_not_kept(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, TurningReplica(held_bytes=holding.MOST_HELD_BYTES + 1))
    with scene.engine:
        film = scene.film_at(10)
        done(scene.submit("clip", CLIP))
        scene.go_on()
        done(film)
    assert scene.events == ["run film", "pause film", "drop film", "run clip", "run film"]


def test_one_without_a_file_makes_no_way_beyond_the_bound(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_HELD", 0)
    film = scene.film_at(10, keeps=False)
    clip = scene.submit("clip", CLIP)
    scene.go_on()
    done(film, clip)
    assert scene.events == ["run film", "run clip"]


def test_jobs_are_kept_no_longer_than_there_is_room_for_the_one_that_runs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.engine._foresight, "room_beside", lambda prediction: 0)
    film = scene.film_at(10)
    done(scene.submit("clip", CLIP))
    scene.go_on()
    done(film)
    assert scene.events == ["run film", "pause film", "drop film", "run clip", "run film"]


def test_a_drain_waits_for_no_paused_job_and_closing_ends_it(scene: Scene) -> None:
    film = scene.film_at(20)
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    assert not scene.engine.drain(0.01)
    scene.go_on()
    assert scene.engine.drain(PATIENCE)
    assert (clip.state.status, film.state.stage) == ("completed", PAUSED)
    scene.engine.close()
    with pytest.raises(Cancelled):
        film.wait(0)


def test_a_full_queue_says_when_there_is_a_place_whoever_is_paused(tiny: Path, tmp_path: Path) -> None:
    scene = Scene(tiny, tmp_path, TurningReplica(step_seconds=2.0))
    with scene.engine:
        film = scene.film_at(20)
        scene.stop("clip", 1)
        clip = scene.submit("clip", {"num_inference_steps": 4})
        wait_until(lambda: clip.state.step == 1, PATIENCE)
        ends = {job: scene.engine.eta_seconds(job) or 0.0 for job in (clip, film)}
        assert scene.engine._outlook.seconds_until_free() == pytest.approx(ends[clip], abs=0.1)
        assert ends[film] == pytest.approx(ends[clip] + (scene.engine.pace.remaining_seconds(film) or 0.0))
        scene.go_on()
        done(clip, film)


def test_seconds_in_which_a_job_is_paused_are_none_of_its_run(scene: Scene) -> None:
    film = scene.film_at(20)
    scene.stop("clip", 1)
    clip = scene.submit("clip", CLIP)
    wait_until(lambda: clip.state.step == 1, PATIENCE)
    ran, rest = film.run_seconds, scene.engine.pace.remaining_seconds(film)
    time.sleep(0.02)
    assert (film.run_seconds, scene.engine.pace.remaining_seconds(film)) == (ran, rest)
    scene.go_on()
    done(clip, film)


def test_a_job_that_another_process_began_has_less_to_do(scene: Scene) -> None:
    """A server that is started anew knows of its progress alone."""
    scene.stop("first", 1)
    first = scene.submit("first", FILM, priority=1)
    wait_until(lambda: first.state.step == 1, PATIENCE)
    fresh, begun = scene.submit("fresh", FILM), scene.submit("begun", FILM, state=JobState(furthest=75))
    rests = [scene.engine.pace.rest_seconds(job) or 0.0 for job in (fresh, begun)]
    assert rests[1] == pytest.approx(rests[0] / 4)
    assert [scene.engine.position(job) for job in (begun, fresh)] == [1, 2]
    scene.go_on()
    done(first, fresh, begun)


class Erratic(TurningReplica):
    """Answers and dawdles at random."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    def pause(self, job_id: str, now: bool = False) -> None:
        time.sleep(self._dice.choice((0, 0, 0.001)))
        super().pause(job_id, now)

    def cancel(self, job_id: str) -> None:
        time.sleep(self._dice.choice((0, 0, 0.001)))
        super().cancel(job_id)

    def _may_go_on(self, kept: Any) -> bool:
        time.sleep(self._dice.choice((0, 0, 0.0005)))
        return super()._may_go_on(kept)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_pauses_cancels_and_deaths_race_and_every_job_ends_in_one_way(tiny: Path, tmp_path: Path, seed: int) -> None:
    """Fifty times each: a film is asked to make way, while it or the newcomer is cancelled, or the workers die."""
    dice = random.Random(seed)
    scene = Scene(tiny, tmp_path, Erratic(dice), Erratic(dice))
    ends: dict[str, list[str]] = {}

    def note(job: Job) -> None:
        if job.state.is_over:
            ends.setdefault(job.id, []).append(job.state.status)

    def submit(prompt: str, kind: dict[str, int]) -> Job:
        asked = Submission(keep=Keep(state_file=str(tmp_path / "state"), max_repeats=1000))
        output = str(tmp_path / f"{prompt}.mp4")
        return scene.engine.submit(small(scene.engine, prompt, **kind), output, note, submission=asked)

    with scene.engine:
        jobs, cancelled = [], []
        for _ in range(50):
            pair = [submit("film", {"num_inference_steps": 30}), submit("clip", CLIP)]
            jobs += pair
            time.sleep(dice.choice((0, 0.001, 0.004)))
            match dice.randrange(6):
                case 0 | 1:
                    cancelled.append(pair[dice.randrange(2)])
                    scene.engine.cancel(cancelled[-1])
                case 2:
                    scene.replicas[dice.randrange(2)].die()
        for job in jobs:
            with contextlib.suppress(Cancelled) if job in cancelled else contextlib.nullcontext():
                job.wait(60)
        wait_until(lambda: not any(each.kept for each in scene.replicas), PATIENCE)
        assert not scene.engine.queue.ids()
        assert scene.engine.num_paused == 0
    assert scene.engine.pauses.pauses > 10
    assert {job.id: 1 for job in jobs} == {name: len(each) for name, each in ends.items()}
    assert not any(each.holding.turn for each in scene.engine._runners)
