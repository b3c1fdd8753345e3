"""A short video amid a long one, as clients of a server see it, and over the end of that server."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.config import EngineConfig
from ringlight.core.settings import ServeSettings
from ringlight.server.collection.videos import Videos, engine_of
from ringlight.server.collection.view import Draft
from tests.engine.processes import wait_until
from tests.server.films import sha256_of
from tests.server.served import POLL_SECONDS, Served, serve
from tests.server.test_waiting import events_of

FILM, CLIP = {"num_inference_steps": 250, "seed": 3}, {"num_inference_steps": 80}


def is_paused(server: Served, video_id: str) -> bool:
    return bool(server.get(video_id)["stage"] == "Paused")


def series(server: Served, name: str) -> float:
    """The value of a series without labels."""
    (line,) = [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


@pytest.mark.slow
def test_a_paused_video_says_so_wherever_it_is_asked(served: Served) -> None:
    film = served.create(**FILM)["id"]
    wait_until(lambda: (served.get(film)["step"] or 0) > 5, poll_seconds=POLL_SECONDS)
    with served.http.stream("GET", f"/v1/videos/{film}/events") as answer:
        clip = served.create(**CLIP)["id"]
        wait_until(lambda: is_paused(served, film) or served.get(clip)["status"] == "completed")
        assert series(served, "ringlight_jobs_paused") == 1
        paused, running = served.get(film), served.get(clip)
        assert (paused["status"], paused["queue_position"], running["queue_position"]) == ("in_progress", 1, 0)
        assert paused["progress"] > 0 and paused["step"] > 5
        # One is told by its last step, the other by the line of a moment ago: a slow step shows in that next.
        wait_until(lambda: served.get(film)["eta_seconds"] > served.get(clip)["eta_seconds"], poll_seconds=POLL_SECONDS)
        assert is_paused(served, film)
        served.wait(clip)
        assert served.wait(film)["restarts"] == 0
        events = list(events_of(answer.iter_lines()))
    stages = [content["stage"] for name, content in events if name == "status"]
    assert "Paused" in stages and stages[-1] != "Paused"
    progress = [content["progress"] for name, content in events if name == "progress"]
    assert progress == sorted(progress)
    report = served.http.get(f"/v1/videos/{film}/report").json()
    assert report["pauses"] == 1
    assert report["paused_seconds"] > 0
    assert series(served, "ringlight_jobs_paused") == 0
    assert series(served, "ringlight_pauses_total") >= 1
    assert series(served, "ringlight_paused_seconds_total") >= report["paused_seconds"]
    assert f"{film} makes way after step" in served.log


@pytest.mark.slow
def test_a_paused_video_goes_on_with_the_next_server(tiny: Path, tmp_path: Path) -> None:
    """A stop waits for the one that has the turn, and not for what is paused: its state is on the disk."""
    server = Served(tmp_path, tiny, "--no-warm-up", "--drain-timeout", 600)
    server.wait_until_ready()
    film = server.create(**FILM)["id"]
    wait_until(lambda: (server.get(film)["step"] or 0) > 5, poll_seconds=POLL_SECONDS)
    clip = server.create(**CLIP)["id"]
    wait_until(lambda: is_paused(server, film))
    assert server.stop(signal.SIGTERM) == 0
    with serve(tmp_path, tiny, "--no-warm-up") as server:
        assert server.get(clip)["status"] == "completed"
        ended = server.wait(film)
        report = server.http.get(f"/v1/videos/{film}/report").json()
        assert report["resumed_from_step"] > 5
        assert ended["restarts"] == 0
        assert sha256_of(server, film) == sha256_of(server, server.completed(**FILM)["id"])


def videos_of(folder: Path, checkpoint: Path, **settings: Any) -> Videos:
    """A collection whose workers are not started."""
    config = EngineConfig(model_path=str(checkpoint), device="cpu", num_threads=1)
    videos = Videos(ServeSettings(data_dir=str(folder), **settings), config)
    videos.engine.start = lambda wait=True: None  # type: ignore[method-assign]
    return videos


def test_videos_are_of_their_keys_share_also_after_a_restart(tiny: Path, tmp_path: Path) -> None:
    for _ in range(2):
        videos = videos_of(tmp_path / "data", tiny)
        videos.start()
        if not (jobs := videos.engine.queue.jobs()):
            videos.create(Draft(request=videos.engine.request("a boat", width=64, height=64, num_frames=5)), "alice")
            jobs = videos.engine.queue.jobs()
        assert [job.submission.client for job in jobs] == ["alice"]
        videos.close()


def test_the_order_is_the_one_that_the_operator_asks_for(tiny: Path) -> None:
    config = EngineConfig(model_path=str(tiny), device="cpu", num_threads=1)
    assert engine_of(ServeSettings(), config).scheduling == "shortest"
    assert engine_of(ServeSettings(scheduling="arrival"), config).scheduling == "arrival"
