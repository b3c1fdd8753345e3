"""Jobs that make way for others, before replicas without processes: who, and for whom."""

from __future__ import annotations

from pathlib import Path

from ringlight.core import messages
from ringlight.engine.job_state import PAUSED
from tests.core.clocks import SetClock
from tests.engine.processes import wait_until
from tests.engine.replicas import TurningReplica
from tests.engine.scene import CLIP, FILM, PATIENCE, Scene, done


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
