"""The client against a real HTTP server that says what it is told to: wire shapes, retries, errors, files."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight.client import ApiError, Client, Preview, Progress, Unreachable, Video
from ringlight.core.errors import InvalidSetting
from tests.client.scripted import Answer, Scripted, refusal, scripted, video

NOW = {"retry_after": "0"}
EVENT_STREAM = {"content-type": "text/event-stream"}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url, api_key="secret", timeout_seconds=10) as client:
        yield client


def test_a_text_is_sent_as_json_and_an_image_as_a_form(server: Scripted, client: Client, tmp_path: Path) -> None:
    server.on("POST /v1/videos", video())
    made = client.create("a cat", num_frames=5, seed=None, guidance_scale=1.5)
    assert made.id == "video_1" and made.status == "queued" and made.num_frames == 5
    asked = server.asked.pop()
    assert asked.json() == {"prompt": "a cat", "num_frames": 5, "guidance_scale": 1.5}
    assert asked.headers["authorization"] == "Bearer secret"
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\0bytes")
    for image in (b"\x89PNG\r\n\0bytes", tmp_path / "picture"):
        client.create("ein Bär", image=image, num_frames=5)
        asked = server.asked.pop()
        assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="input_reference"; filename="' in asked.body and b"\x89PNG\r\n\0bytes" in asked.body
        assert b'name="prompt"\r\n\r\nein B\xc3\xa4r\r\n' in asked.body
        assert b'name="num_frames"\r\n\r\n5\r\n' in asked.body


def test_a_repeated_create_has_the_same_key_and_another_one_has_not(server: Scripted, client: Client) -> None:
    later = refusal(503, "not_ready", "no worker", **NOW)
    lost = Answer(video(), breaks_after=10)
    server.on("POST /v1/videos", lost, later, refusal(429, "queue_full", "full", **NOW), video())
    assert client.create("a cat", image=b"bytes").id == "video_1"
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(keys) == 4 and len(set(keys)) == 1
    assert len({asked.body.replace(boundary(asked), b"") for asked in server.asked}) == 1
    client.create("a cat")
    assert server.asked[-1].headers["idempotency-key"] not in keys


def boundary(asked: Any) -> bytes:
    found: str = asked.headers["content-type"].partition("boundary=")[2]
    return found.encode()


def test_tries_end(server: Scripted) -> None:
    server.on("GET /v1/videos/video_1", refusal(429, "queue_full", "full", retry_after="0"))
    with Client(server.url, max_retries=2) as client, pytest.raises(ApiError) as caught:
        client.get("video_1")
    assert (caught.value.code, caught.value.retry_seconds, len(server.asked)) == ("queue_full", 0.0, 3)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(404, "not_found", "there is no such video"),
        refusal(400, "invalid_request", "prompt: must not be empty", "prompt"),
        refusal(409, "video_not_finished", "wait for its end"),
        refusal(501, "unsupported", "the model cannot"),
        refusal(500, "internal_error", "a bug"),
        refusal(503, "unsupported", "never", x_should_retry="false"),
    ],
    ids=lambda answer: f"{answer.status}",
)
def test_what_is_refused_for_good_is_asked_once(server: Scripted, client: Client, answer: Answer) -> None:
    server.on("GET /v1/videos/video_1", answer)
    with pytest.raises(ApiError) as caught:
        client.get("video_1")
    error, said = caught.value, answer.body["error"]
    assert (error.status, error.code, error.message) == (answer.status, said["code"], said["message"])
    assert (error.param, error.request_id, len(server.asked)) == (said["param"], "req_1", 1)


@pytest.mark.parametrize("body", [b"<html>Not here</html>", b"", b'{"detail": "no"}', b"\xff\xfe"])
def test_an_error_that_is_not_in_the_envelope(server: Scripted, client: Client, body: bytes) -> None:
    server.on("GET /v1/videos/video_1", Answer(body, 410))
    with pytest.raises(ApiError) as caught:
        client.get("video_1")
    assert (caught.value.status, caught.value.code) == (410, "http_410")
    assert "HTTP status 410 Gone, not from Ringlight itself" in str(caught.value) and "<" not in str(caught.value)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_whose_server_is_being_restarted_is_asked_again(server: Scripted, client: Client, status: int) -> None:
    server.on("GET /v1/videos/video_1", Answer(b"<html>Bad Gateway</html>", status), video())
    assert client.get("video_1").id == "video_1"
    assert len(server.asked) == 2


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"id": 3}', b'{"id": "video_1", "status": "odd"}'])
def test_another_server_is_told_apart(server: Scripted, client: Client, body: bytes) -> None:
    server.on("GET /v1/videos/video_1", Answer(body))
    with pytest.raises(ApiError, match="not the answer of a Ringlight server") as caught:
        client.get("video_1")
    assert caught.value.code == "unexpected_answer"


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses, and nobody else gets it
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, max_retries=0) as client:
            with pytest.raises(Unreachable, match=url):
                client.get("video_1")
            assert not client.is_ready()


@pytest.mark.parametrize("end", ["/", "/v1", "/v1/"])
def test_an_address_may_end_as_openais_clients_have_it(server: Scripted, end: str) -> None:
    server.on("GET /v1/videos/video_1", video())
    with Client(server.url + end) as client:
        assert client.get("video_1").id == "video_1"


@pytest.mark.parametrize("url", ["127.0.0.1:8898", "ftp://host", "http://", "http://host:port", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidSetting, match="url"):
        Client(url)


def test_ids_stay_within_their_place(server: Scripted, client: Client) -> None:
    with pytest.raises(ApiError):
        client.get("../../metrics?x=1#y")
    assert server.asked[0].path == "/v1/videos/..%2F..%2Fmetrics%3Fx%3D1%23y"


def page(numbers: range, has_more: bool) -> dict[str, Any]:
    return {"object": "list", "data": [video(id=f"video_{n}") for n in numbers], "has_more": has_more}


def test_a_list_has_all_pages(server: Scripted, client: Client) -> None:
    server.on("GET /v1/videos", page(range(100), True), page(range(100, 130), False))
    assert [each.id for each in client.list(order="asc")] == [f"video_{n}" for n in range(130)]
    assert [asked.path for asked in server.asked] == [
        "/v1/videos?limit=100&order=asc",
        "/v1/videos?limit=100&order=asc&after=video_99",
    ]


def test_a_list_has_no_more_than_asked_for(server: Scripted, client: Client) -> None:
    server.on("GET /v1/videos", page(range(100), True), page(range(100, 103), True))
    assert len(list(client.list(limit=103))) == 103
    assert [asked.path.partition("limit=")[2] for asked in server.asked] == [
        "100&order=desc",
        "3&order=desc&after=video_99",
    ]
    server.on("GET /v1/videos", page(range(0), False))
    assert list(client.list()) == []


def test_waiting_asks_when_it_is_told_to_and_tells_of_changes(server: Scripted, client: Client) -> None:
    soon = {"openai-poll-after-ms": "1"}
    running = Answer(video("in_progress", progress=40, stage="Denoising", step=2), headers=soon)
    server.on(
        "GET /v1/videos/video_1",
        Answer(video(), headers=soon),
        running,
        running,
        refusal(503, "store_error", "locked", retry_after="0"),
        video("completed", progress=100, stages=[{"name": "Denoising", "seconds": 1.5, "peak_bytes": 7}]),
    )
    seen: list[Video] = []
    done = client.wait("video_1", on_change=seen.append)
    assert [(each.status, each.progress) for each in seen] == [("queued", 0), ("in_progress", 40), ("completed", 100)]
    assert done.is_over and done.stages is not None and done.stages[0].seconds == 1.5


def test_waiting_ends_with_failure_or_in_time(server: Scripted, client: Client) -> None:
    server.on("GET /v1/videos/video_1", video("failed", error={"code": "cancelled", "message": "m", "param": None}))
    failed = client.wait("video_1")
    assert failed.error is not None and failed.error.code == "cancelled"
    server.on("GET /v1/videos/video_1", Answer(video(), headers={"openai-poll-after-ms": "60000"}))
    with pytest.raises(TimeoutError, match=r"video_1 is not over after 0\.01 s"):
        client.wait("video_1", timeout_seconds=0.01)
    server.on("GET /v1/videos/video_1", refusal(404, "not_found", "no"))
    with pytest.raises(ApiError):
        client.wait("video_1")


def test_waiting_outlives_a_server_that_is_being_restarted(server: Scripted) -> None:
    place = "GET /v1/videos/video_1"
    with Client(server.url, max_retries=0) as client:
        server.on(place, Answer(video(), breaks_after=5), video("completed"))
        assert client.wait("video_1").status == "completed"
        server.on(place, Answer(video(), breaks_after=5))
        with pytest.raises(Unreachable):
            client.get("video_1")


def test_events(server: Scripted, client: Client) -> None:
    stream = (
        ": hello\r\nretry: 1000\n\n"
        'event: status\nid: 1\ndata: {"id": "video_1",\ndata:  "status": "queued", "prompt": "Bär"}\n\n'
        'event: progress\ndata:{"progress": 7, "step": 1, "num_steps": 4, "stage": "Denoising", "more": 1}\n\n'
        'event: preview\ndata: {"step": 2, "image": "data:image/jpeg;base64,aGVsbG8="}\n\n'
        "event: from-the-future\ndata: x\n\n"
        "event: status\n\n"
        'event: done\ndata: {"id": "video_1", "status": "completed"}\n\n'
        'event: status\ndata: {"id": "cut off'
    )
    server.on("GET /v1/videos/video_1/events", Answer(stream.encode(), headers=EVENT_STREAM))
    first, progress, preview, last = client.events("video_1")
    assert isinstance(first, Video) and first.prompt == "Bär"
    assert progress == Progress(progress=7, step=1, num_steps=4, stage="Denoising")
    assert preview == Preview(step=2, image=b"hello")
    assert isinstance(last, Video) and last.is_over


@pytest.mark.parametrize(
    "event",
    ["status\ndata: {}", "progress\ndata: 3", 'preview\ndata: {"step": 1, "image": "data:,%"}', "done\ndata: ["],
)
def test_an_event_that_is_not_what_its_name_says(server: Scripted, client: Client, event: str) -> None:
    server.on("GET /v1/videos/video_1/events", Answer(f"event: {event}\n\n".encode(), headers=EVENT_STREAM))
    with pytest.raises(ApiError, match="event cannot be read"):
        next(client.events("video_1"))


def test_what_is_no_stream_of_events_says_so(server: Scripted, client: Client) -> None:
    server.on("GET /v1/videos/video_1/events", Answer(b"<html>", headers={"content-type": "text/html"}))
    with pytest.raises(ApiError, match=r"not a stream of events: .*text/html"):
        next(client.events("video_1"))


def test_a_lost_stream_of_events_says_so(server: Scripted, client: Client) -> None:
    event = b'event: status\ndata: {"id": "video_1", "status": "queued"}\n\n'
    server.on("GET /v1/videos/video_1/events", Answer(event * 3, headers=EVENT_STREAM, breaks_after=len(event) + 9))
    events = client.events("video_1")
    assert isinstance(next(events), Video)
    with pytest.raises(Unreachable):
        next(events)


def test_a_download_is_whole_or_not_there(server: Scripted, client: Client, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    place, path = "GET /v1/videos/video_1/content", tmp_path / "film.mp4"
    server.on(place, Answer(content, breaks_after=200_000), Answer(content))
    client.download("video_1", path)
    assert path.read_bytes() == content
    client.download("video_1", path, "thumbnail")
    assert server.asked[-1].path.endswith("/content?variant=thumbnail")
    path.unlink()
    server.on(place, Answer(content, breaks_after=200_000))
    with Client(server.url, max_retries=0) as impatient, pytest.raises(Unreachable):
        impatient.download("video_1", path)
    server.on(place, refusal(404, "video_not_ready", "wait"))
    with pytest.raises(ApiError):
        client.download("video_1", path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_follows_to_another_host_without_the_key(server: Scripted, client: Client, tmp_path: Path) -> None:
    with scripted() as store:
        store.on("GET /bucket/film.mp4", Answer(b"the film"))
        location = f"{store.url}/bucket/film.mp4?X-Amz-Signature=1"
        server.on("GET /v1/videos/video_1/content", Answer(status=307, headers={"location": location}))
        client.download("video_1", tmp_path / "film.mp4")
        assert (tmp_path / "film.mp4").read_bytes() == b"the film"
        assert server.asked[-1].headers["authorization"] == "Bearer secret"
        assert store.asked[-1].path == "/bucket/film.mp4?X-Amz-Signature=1"
        assert "authorization" not in store.asked[-1].headers
        assert "secret" not in str(store.asked[-1])
        store.on("GET /bucket/film.mp4", Answer(b"<Code>AccessDenied</Code>", 403))
        with pytest.raises(ApiError, match="HTTP status 403 Forbidden, not from Ringlight itself: <Code>AccessDenied"):
            client.download("video_1", tmp_path / "film.mp4")
    with Client(server.url, max_retries=0) as impatient, pytest.raises(Unreachable, match=store.url):
        impatient.download("video_1", tmp_path / "film.mp4")


def test_the_other_calls(server: Scripted, client: Client) -> None:
    server.on("POST /v1/videos/video_1/cancel", video("failed", error={"code": "cancelled", "message": "m"}))
    server.on("POST /v1/videos/video_1/remix", video(id="video_2", remixed_from_video_id="video_1"))
    server.on("POST /v1/videos/extensions", video(id="video_3", extended_from_video_id="video_1"))
    server.on("DELETE /v1/videos/video_1", {"id": "video_1", "object": "video.deleted", "deleted": True})
    server.on("GET /v1/models", {"object": "list", "data": [{"id": "wan", "object": "model"}]})
    server.on("GET /readyz", refusal(503, "not_ready", "loading"), {"status": "ready"})
    assert client.cancel("video_1").is_over
    assert client.remix("video_1", "a dog").remixed_from_video_id == "video_1"
    assert server.asked[-1].json() == {"prompt": "a dog"} and "idempotency-key" in server.asked[-1].headers
    assert client.extend("video_1", "it goes on", seconds=2, seed=3).extended_from_video_id == "video_1"
    assert server.asked[-1].json() == {"prompt": "it goes on", "video": "video_1", "seconds": "2", "seed": 3}
    client.delete("video_1")
    assert client.models() == ("wan",)
    assert [client.is_ready(), client.is_ready()] == [False, True]
