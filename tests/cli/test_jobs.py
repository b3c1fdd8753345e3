"""`ringlight jobs` against a real HTTP server that says what it is told to."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Done, Running, here, ringlight
from tests.client.scripted import Answer, Scripted, refusal, scripted, video

SOON = {"openai-poll-after-ms": "1"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


@pytest.fixture
def server(shared: Scripted) -> Scripted:
    shared.asked.clear()
    shared.answers.clear()
    return shared


def jobs(server: Scripted, *arguments: object, folder: Path | None = None) -> Done:
    """Where the server is comes from the environment, and so does the key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGLIGHT_URL", server.url)
        patch.setenv("RINGLIGHT_API_KEY", "secret")
        return here("jobs", *arguments, folder=folder)


def test_the_command_itself(server: Scripted) -> None:
    server.on("POST /v1/videos", video())
    assert ringlight("jobs", "create", "--prompt", "a cat", "--url", server.url) == Done(0, "video_1\n", "")
    server.on("GET /v1/videos/video_1", refusal(500, "internal_error", "a bug"))
    done = ringlight("jobs", "show", "video_1", "--url", server.url)
    assert done == Done(4, "", "ringlight: internal_error: a bug\n")


def test_create(server: Scripted, tmp_path: Path) -> None:
    server.on("POST /v1/videos", video())
    done = jobs(server, "create", "--prompt", "a cat", "--seconds", 2, "--size", "64x64", "--seed", 0)
    assert done == Done(0, "video_1\n", "")
    assert server.asked[0].json() == {"prompt": "a cat", "seconds": "2", "size": "64x64", "seed": 0}
    assert jobs(server, "create", "--prompt", "a cat", "--layout", "u1r2") == Done(0, "video_1\n", "")
    assert server.asked.pop().json() == {"prompt": "a cat", "layout": "u1r2"}
    assert server.asked[0].headers["authorization"] == "Bearer secret"
    order = {"user": "ann", "priority": -3, "timeout_seconds": 2.5, "webhook_url": "https://hook.test/x"}
    flags = [each for name, value in order.items() for each in (f"--{name.replace('_', '-')}", value)]
    assert jobs(server, "create", "--prompt", "a cat", *flags) == Done(0, "video_1\n", "")
    assert server.asked.pop().json() == {"prompt": "a cat", **order}
    (tmp_path / "first.png").write_bytes(b"bytes of a picture")
    done = jobs(server, "create", "--prompt", "a cat", "--image-path", tmp_path / "first.png", "--json")
    assert json.loads(done.out)["id"] == "video_1"
    assert b"bytes of a picture" in server.asked[1].body


def test_a_video_again_and_one_that_goes_on(server: Scripted, tmp_path: Path) -> None:
    server.on("POST /v1/videos/video_1/remix", video(id="video_2"))
    assert jobs(server, "remix", "video_1", "--prompt", "a dog") == Done(0, "video_2\n", "")
    assert server.asked.pop().json() == {"prompt": "a dog"}
    assert jobs(server, "remix", "video_1", "--prompt", "a dog", "--seed", 7, "--priority", 3).code == 0
    assert server.asked.pop().json() == {"prompt": "a dog", "seed": 7, "priority": 3}
    assert jobs(server, "remix", "video_1", "--prompt", "a dog", "--num-frames", 5).code == 2

    server.on("POST /v1/videos/extensions", video(id="video_3"))
    assert jobs(server, "extend", "video_1", "--prompt", "it runs", "--seconds", 2) == Done(0, "video_3\n", "")
    assert server.asked.pop().json() == {"prompt": "it runs", "video": "video_1", "seconds": "2"}
    (tmp_path / "last.png").write_bytes(b"bytes of a picture")
    done = jobs(
        server, "extend", "video_1", "--prompt", "it runs", "--last-image-path", tmp_path / "last.png", "--json"
    )
    assert json.loads(done.out)["id"] == "video_3" and b"bytes of a picture" in server.asked.pop().body
    assert jobs(server, "extend", "video_1", "--prompt", "it runs", "--width", 64).code == 2


def test_a_link_is_whole(server: Scripted) -> None:
    path = "/v1/videos/video_1/content?variant=thumbnail&key=abc"
    server.on("POST /v1/videos/video_1/link", {"object": "video.link", "url": path, "expires_at": 1_800_000_000})
    assert jobs(server, "link", "video_1", "--variant", "thumbnail") == Done(0, server.url + path + "\n", "")
    assert server.asked[-1].path.endswith("/link?variant=thumbnail")
    assert json.loads(jobs(server, "link", "video_1", "--json").out)["expires_at"] == 1_800_000_000


def test_what_is_not_as_asked_is_told(server: Scripted) -> None:
    warning = {
        "code": "size_rounded",
        "param": "size",
        "given": "1280x720",
        "used": "1280x704",
        "message": "is 1280x704",
    }
    server.on("POST /v1/videos", video(warnings=[warning]))
    assert jobs(server, "create", "--prompt", "a cat") == Done(0, "video_1\n", "note: is 1280x704\n")
    server.on("GET /v1/videos/video_1", video(warnings=[warning]))
    assert re.search(r"^warnings +is 1280x704$", jobs(server, "show", "video_1").out, re.MULTILINE)


def test_what_the_server_refuses_is_one_line(server: Scripted) -> None:
    server.on("POST /v1/videos", refusal(400, "invalid_request", "64x65 is not a multiple", "size"))
    done = jobs(server, "create", "--prompt", "a cat", "--size", "64x65")
    assert done == Done(3, "", "ringlight: invalid_request: size: 64x65 is not a multiple\n")
    server.on("GET /v1/videos/video_1", refusal(500, "internal_error", "a bug"))
    assert jobs(server, "show", "video_1") == Done(4, "", "ringlight: internal_error: a bug\n")


def test_list(server: Scripted) -> None:
    failed = {"code": "out_of_memory", "message": "too large"}
    prompt = "[bold]not markup[/bold]\n" + "x" * 200
    two = [video("in_progress", progress=40, prompt=prompt), video("failed", id="video_2", error=failed)]
    server.on("GET /v1/videos", {"object": "list", "data": two, "has_more": False})
    done = jobs(server, "ls", "--limit", 7)
    assert (done.code, done.err) == (0, "")
    assert server.asked[0].path == "/v1/videos?limit=7&order=desc"
    head, first, second = done.out.splitlines()
    assert head.split() == ["id", "status", "%", "size", "frames", "steps", "prompt"]
    assert first.split()[:7] == ["video_1", "in_progress", "40", "64x64", "5", "4", "[bold]not"]
    assert second.split()[:2] == ["video_2", "out_of_memory"]
    assert max(map(len, (first, second))) < 140
    assert [each["id"] for each in json.loads(jobs(server, "ls", "--json").out)] == ["video_1", "video_2"]


def test_show(server: Scripted) -> None:
    stages = [{"name": "Denoising", "seconds": 1.5, "peak_bytes": 7}]
    completed = video("completed", progress=100, stages=stages, seed=7, layout_reason="u1r1: one")
    server.on("GET /v1/videos/video_1", completed)
    done = jobs(server, "show", "video_1")
    shown = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (shown["seed"], shown["stages"], shown["status"]) == ("7", "Denoising 1.50 s", "completed")
    assert shown["layout_reason"] == "u1r1: one"
    assert "error" not in shown and "eta_seconds" not in shown
    assert shown["created_at"].startswith("2023-11-1")
    assert json.loads(jobs(server, "show", "video_1", "--json").out)["seed"] == 7


def test_waiting_for_a_video_that_is_completed(server: Scripted) -> None:
    server.on(
        "GET /v1/videos/video_1",
        Answer(video(queue_position=3), headers=SOON),
        Answer(video("in_progress", progress=40, stage="Denoising", step=2, eta_seconds=9.0), headers=SOON),
        video("completed", progress=100),
    )
    done = jobs(server, "wait", "video_1")
    assert (done.code, done.out) == (0, "video_1  completed\n")
    assert done.err.splitlines() == ["  0%  queued  place 3 in the queue", " 40%  Denoising  step 2/4, 9 s left"]
    assert jobs(server, "wait", "video_1", "--quiet").err == ""


def test_waiting_for_a_video_that_waits_says_why(server: Scripted) -> None:
    server.on(
        "GET /v1/videos/video_1",
        Answer(video("in_progress", progress=40, stage="Paused", step=2, queue_position=1), headers=SOON),
        Answer(video("in_progress", progress=40, stage="Recovering", step=2), headers=SOON),
        video("completed", progress=100),
    )
    assert jobs(server, "wait", "video_1").err.splitlines() == [
        " 40%  Paused  others go first, place 1 in the queue, step 2/4",
        " 40%  Recovering  its workers died, step 2/4",
    ]


def test_a_code_is_not_said_twice(server: Scripted) -> None:
    error = {"code": "cancelled", "message": "cancelled"}
    server.on("GET /v1/videos/video_1", video("failed", error=error))
    assert jobs(server, "wait", "video_1").err == "ringlight: cancelled\n"
    assert re.search(r"^error +cancelled$", jobs(server, "show", "video_1").out, re.MULTILINE)


def test_waiting_for_a_video_that_fails(server: Scripted) -> None:
    for code in ("out_of_memory", "cancelled"):
        server.on("GET /v1/videos/video_1", video("failed", error={"code": code, "message": "the cause"}))
        done = jobs(server, "wait", "video_1", "--json")
        assert (done.code, done.err) == (4, f"ringlight: {code}: the cause\n")
        assert json.loads(done.out)["error"]["code"] == code


def test_waiting_no_longer_than_asked(server: Scripted) -> None:
    server.on("GET /v1/videos/video_1", video())
    done = jobs(server, "wait", "video_1", "--timeout", 0, "--quiet")
    assert (done.code, done.out) == (4, "")
    assert done.err == "ringlight: timeout: video_1 is not over after 0 s\n"


def test_an_interrupted_wait_leaves_the_video_alone(server: Scripted, tmp_path: Path) -> None:
    server.on("GET /v1/videos/video_1", video("in_progress", stage="Denoising", progress=3))
    running = Running(tmp_path, "jobs", "wait", "video_1", "--url", server.url)
    try:
        running.wait_for("Denoising")
        running.interrupt(signal.SIGINT)
        done = running.end()
    finally:
        running.kill()
    assert (done.code, done.out) == (130, "")
    assert "still being made" in done.err and "Traceback" not in done.err
    assert {asked.method for asked in server.asked} == {"GET"}


def test_cancel_and_remove(server: Scripted) -> None:
    server.on("POST /v1/videos/video_1/cancel", video("failed", error={"code": "cancelled", "message": "cancelled"}))
    server.on("POST /v1/videos/video_2/cancel", video("completed", id="video_2"))
    assert jobs(server, "cancel", "video_1", "video_2").out == "video_1  cancelled\nvideo_2  completed\n"
    server.on("DELETE /v1/videos/video_1", {"id": "video_1", "deleted": True})
    done = jobs(server, "rm", "video_1", "video_3")
    assert (done.code, done.out) == (3, "video_1  deleted\n")
    assert done.err == "ringlight: not_found: there is no such video\n"


def test_download(server: Scripted, tmp_path: Path) -> None:
    server.on("GET /v1/videos/video_1/content", Answer(b"first"), Answer(b"second"))
    assert jobs(server, "download", "video_1", folder=tmp_path) == Done(0, "video_1.mp4\n", "")
    path = tmp_path / "video_1.mp4"
    assert path.read_bytes() == b"first"
    done = jobs(server, "download", "video_1", "-o", path)
    assert done.code == 3 and "--force" in done.err and len(server.asked) == 1
    assert path.read_bytes() == b"first"
    assert jobs(server, "download", "video_1", "-o", path, "--force").code == 0
    assert path.read_bytes() == b"second"
    assert jobs(server, "download", "video_1", "--variant", "spritesheet", folder=tmp_path).out == "video_1.jpg\n"
    assert server.asked[-1].path.endswith("variant=spritesheet")


def test_a_download_that_cannot_be_written(server: Scripted, tmp_path: Path) -> None:
    done = jobs(server, "download", "video_1", "-o", tmp_path / "nowhere" / "film.mp4")
    assert done.code == 3 and "nowhere" in done.err and server.asked == []


def test_a_place_that_is_none(server: Scripted) -> None:
    done = jobs(server, "ls", "--url", "localhost:8898")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("ringlight: invalid_setting: url 'localhost:8898'")
