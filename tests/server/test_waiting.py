"""Clients that wait: for the answer itself, or for events. They may leave, or not listen, at any time."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import av
import httpx
import pytest

from tests.engine.processes import wait_until
from tests.server.served import LONG, SMALL, Served, error_of

pytestmark = pytest.mark.slow  # a real server, or several processes


def test_sync_answers_with_the_video(served: Served, finished: dict[str, Any]) -> None:
    answer = served.http.post("/v1/videos/sync", json=SMALL)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == SMALL["num_frames"]
    video = served.get(answer.headers["x-video-id"])
    assert answer.headers["x-seed"] == str(video["seed"])
    assert float(answer.headers["x-inference-time"]) == pytest.approx(video["inference_time_s"], abs=1e-3)
    assert answer.content == served.http.get(f"/v1/videos/{finished['id']}/content").content


def test_sync_answers_with_the_error_of_the_video(served: Served) -> None:
    answer = served.http.post("/v1/videos/sync", json=LONG | {"timeout_seconds": 0.5})
    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")
    assert served.get(answer.headers["x-video-id"])["status"] == "failed"


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "stay"}], ids=["alone", "with a key"])
def test_sync_cancels_for_a_client_that_leaves_unless_it_may_come_back(
    served: Served, headers: dict[str, str], request: pytest.FixtureRequest
) -> None:
    prompt = f"left {request.node.name}"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        body = json.dumps(LONG | {"prompt": prompt}).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(
            f"POST /v1/videos/sync HTTP/1.1\r\nHost: here\r\n{head}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_until(lambda: newest(served, prompt) is not None)
        video = newest(served, prompt)
        assert video is not None
        served.wait(video["id"], "in_progress")
    if headers:
        answers: list[httpx.Response] = []
        again = threading.Thread(
            target=lambda: answers.append(
                served.http.post("/v1/videos/sync", json=LONG | {"prompt": prompt}, headers=headers)
            )
        )
        again.start()
        assert served.get(video["id"])["status"] == "in_progress"
        served.http.post(f"/v1/videos/{video['id']}/cancel")
        again.join()
        assert answers[0].headers["x-video-id"] == video["id"]
    failed = served.wait(video["id"], "failed")
    assert failed["error"]["code"] == "cancelled"


def newest(served: Served, prompt: str) -> dict[str, Any] | None:
    videos = served.http.get("/v1/videos?limit=5").json()["data"]
    return next((video for video in videos if video["prompt"] == prompt), None)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_events_of_a_video_from_beginning_to_end(served: Served) -> None:
    video = served.create(**SMALL | {"num_inference_steps": 200})
    with served.http.stream("GET", f"/v1/videos/{video['id']}/events", headers={"Last-Event-ID": "5"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        events = list(events_of(answer.iter_lines()))
    names = [name for name, _ in events]
    assert names[0] == "status"
    assert names[-1] == "done"
    assert set(names) == {"status", "progress", "preview", "done"}
    assert events[-1][1] == served.get(video["id"])
    progress = [content for name, content in events if name == "progress"]
    assert [each["progress"] for each in progress] == sorted(each["progress"] for each in progress)
    assert progress[-1]["num_steps"] == 200
    assert all(
        content["image"].startswith("data:image/jpeg;base64,/9j/") for name, content in events if name == "preview"
    )


def test_events_of_what_is_over_are_its_end(served: Served, finished: dict[str, Any]) -> None:
    with served.http.stream("GET", f"/v1/videos/{finished['id']}/events") as answer:
        assert list(events_of(answer.iter_lines())) == [("done", finished)]


def test_events_end_when_the_video_is_deleted(served: Served) -> None:
    video = served.create(**LONG)
    with served.http.stream("GET", f"/v1/videos/{video['id']}/events") as answer:
        events = events_of(answer.iter_lines())
        assert next(events)[0] == "status"
        httpx.delete(f"{served.url}/v1/videos/{video['id']}")
        assert "done" not in [name for name, _ in events]


@pytest.mark.slow
def test_many_listeners_hold_up_nobody(served: Served) -> None:
    """200 that read, and 50 that do not, are five times as many as there are threads."""
    video = served.create(**LONG)
    path = f"/v1/videos/{video['id']}/events"
    deaf = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(50)]
    for connection in deaf:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())

    async def listen() -> list[str]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False, limits=limits) as client:
            begun = [asyncio.Event() for _ in range(200)]

            async def one(is_begun: asyncio.Event) -> str:
                last = ""
                async with client.stream("GET", path) as answer:
                    async for line in answer.aiter_lines():
                        is_begun.set()
                        last = line if line.startswith("event: ") else last
                return last

            listening = [asyncio.create_task(one(each)) for each in begun]
            await asyncio.gather(*(each.wait() for each in begun))
            assert (await client.get(f"/v1/videos/{video['id']}")).json()["status"] == "in_progress"
            assert (await client.get("/v1/videos")).status_code == 200
            await client.post(f"/v1/videos/{video['id']}/cancel")
            return await asyncio.gather(*listening)

    assert asyncio.run(listen()) == ["event: done"] * 200
    for connection in deaf:
        connection.close()
    served.completed()
