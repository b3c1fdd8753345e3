"""A short video amid a long one, as clients of a server see it, and over the end of that server."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.config import EngineConfig
from ringlight.core.settings import ServeSettings
from ringlight.server.api.schemas import to_video
from ringlight.server.collection.videos import Videos, engine_of
from ringlight.server.collection.view import Draft
from tests.engine.processes import wait_until
from tests.server.films import sha256_of
from tests.server.served import POLL_SECONDS, Served
from tests.server.stores import new_job
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
    before = server.get(film)
    assert server.stop(signal.SIGTERM) == 0
    server = Served(tmp_path, tiny, "--no-warm-up", port=server.port)
    try:
        server.wait_until_listening()
        for found in (server.get(film), server.http.get("/v1/videos").json()["data"][1]):
            assert found["status"] == "in_progress" and found["step"] >= before["step"]  # it may go on already
            assert found["pauses"] == 1 and found["paused_seconds"] > before["paused_seconds"]
            assert found["progress"] >= before["progress"]
        assert server.get(clip)["status"] == "completed"
        ended = server.wait(film)
        report = server.http.get(f"/v1/videos/{film}/report").json()
        assert report["resumed_from_step"] == before["step"] > 5
        assert (report["pauses"], ended["pauses"], ended["restarts"]) == (1, 1, 0)
        assert ended["paused_seconds"] == round(report["paused_seconds"], 3) >= found["paused_seconds"]
        assert series(server, "ringlight_pauses_total") == 0, "it was another server's"
        assert sha256_of(server, film) == sha256_of(server, server.completed(**FILM)["id"])
    finally:
        server.stop(signal.SIGTERM)


def videos_of(folder: Path, checkpoint: Path, **settings: Any) -> Videos:
    """A collection whose workers are not started."""
    config = EngineConfig(model_path=str(checkpoint), device="cpu", num_threads=1)
    videos = Videos(ServeSettings(data_dir=str(folder), **settings), config)
    videos.engine.start = lambda wait=True: None  # type: ignore[method-assign]
    return videos


def test_a_paused_video_says_so_before_the_next_server_has_workers(tiny: Path, tmp_path: Path) -> None:
    """Also where its ranks are not the same number, and it begins anew; one that was not paused is queued."""
    when = time.time() - 100.0
    paused = {"status": "in_progress", "saved_step": 1, "pauses": 3, "paused_seconds": 5.0, "paused_at": when}
    videos = videos_of(tmp_path / "data", tiny)
    kept = [
        videos.store.add(new_job(**asked))
        for asked in (paused, paused | {"layout": "u1r2"}, {"status": "in_progress", "saved_step": 1, "pauses": 3})
    ]
    videos.start()
    found = [to_video(videos.get(job.id, None)) for job in kept]
    assert [video.status for video in found] == ["in_progress", "in_progress", "queued"]
    assert [(video.stage, video.step) for video in found] == [("Paused", 1), ("Paused", 0), (None, None)]
    assert [video.pauses for video in found] == [3, 3, 3]
    assert [video.paused_seconds // 10 for video in found] == [10, 10, 0]
    assert videos.engine.num_paused == 2
    assert videos.engine.pauses.pauses == 0, "it was another server's"
    videos.cancel(kept[0].id, None)
    assert 100 < videos.store.get(kept[0].id).paused_seconds < 200
    videos.close()


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
    assert engine_of(ServeSettings(), config).policy.scheduling == "shortest"
    assert engine_of(ServeSettings(scheduling="arrival"), config).policy.scheduling == "arrival"
