"""What becomes of jobs that have made way, before replicas without processes: their ends, and what is told of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ringlight.core import messages
from ringlight.core.errors import Cancelled, DeadlineExceeded, WorkerError
from ringlight.engine import holding
from ringlight.engine.job_state import PAUSED, RECOVERING, JobState, Released, fold
from ringlight.engine.jobs import Job
from ringlight.engine.replica import Lost, Receive
from tests.core.clocks import SetClock
from tests.engine.processes import wait_until
from tests.engine.queues import a_queue
from tests.engine.replicas import TurningReplica
from tests.engine.scene import CLIP, FILM, PATIENCE, Scene, done


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
        (runner,) = scene.engine._runners
        turn = runner.holding.turn
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


def test_a_job_whose_state_is_still_written_is_taken_by_no_other_replica(scene: Scene) -> None:
    """The one that writes it obeys orders one after the other: once it has begun another job it has written it."""
    job = scene.submit("clip", CLIP)
    queue = a_queue()
    keeper, other = queue.serve("keeper"), queue.serve("other")
    queue.put(job, keeper)
    assert queue.take(other, 0.0) is None
    queue.open_up(keeper)
    assert (ticket := queue.take(other, 0.0)) is not None and ticket.job is job
    done(job)


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
