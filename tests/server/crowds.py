"""Many clients at once: that nobody gets an error or waits, that the queue is bounded, and what HTTP itself costs."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx

from tests.server.cancels import events_of
from tests.server.films import ENDLESS, SHORT, Originals, num_finished, sha256_of, spread, wait_until_idle
from tests.server.served import Served

Findings = dict[str, Any]

NUM_POLLERS = 200
SUBMITS_PER_MINUTE = 20
LIVEZ_SECONDS = 0.05  # between two questions whether the process lives


def poll_and_submit(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """200 clients that poll once a second, and 20 new videos a minute, for `count` seconds; all are completed."""
    return asyncio.run(_poll_and_submit(served, originals.sha256(SHORT), count, chance))


async def _poll_and_submit(served: Served, original: str, num_seconds: int, chance: random.Random) -> Findings:
    seconds: dict[str, list[float]] = {"GET": [], "POST": [], "/livez": []}
    ids: list[str] = []
    until = time.monotonic() + num_seconds
    async with clients(served, NUM_POLLERS + 2) as (submitter, prober, *pollers):

        async def timed(
            kind: str, http: httpx.AsyncClient, path: str, method: str = "GET", **content: Any
        ) -> httpx.Response:
            began = time.monotonic()
            answer = await http.request(method, path, **content)
            seconds[kind].append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text
            return answer

        async def submit() -> None:
            ids.append((await timed("POST", submitter, "/v1/videos", "POST", json=SHORT)).json()["id"])

        async def poll(http: httpx.AsyncClient) -> None:
            await timed("GET", http, f"/v1/videos/{chance.choice(ids)}")

        await submit()
        async with asyncio.TaskGroup() as group:
            group.create_task(every(60 / SUBMITS_PER_MINUTE, until, submit))
            group.create_task(every(LIVEZ_SECONDS, until, lambda: timed("/livez", prober, "/livez")))
            for poller in pollers:
                group.create_task(every(1.0, until, partial(poll, poller), first=chance.random()))
    for video_id in ids:
        served.wait(video_id)
        assert sha256_of(served, video_id) == original
    return {
        "pollers": NUM_POLLERS,
        "seconds": num_seconds,
        "videos": len(ids),
        "errors": 0,
        **{f"{kind}, number": len(took) for kind, took in seconds.items()},
        **{f"{kind}, s": spread(took) for kind, took in seconds.items()},
    }


async def every(seconds: float, until: float, call: Callable[[], Awaitable[object]], first: float = 0.0) -> None:
    """Call again and again until a moment, at even times: an answer that comes late does not put off the next call."""
    at = time.monotonic() + first
    while at < until:
        await asyncio.sleep(at - time.monotonic())
        await call()
        at = max(at + seconds, time.monotonic())


@asynccontextmanager
async def clients(served: Served, number: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """So many clients, each with its connection: a pool for all would look through the whole of it at every call."""
    context = ssl.create_default_context()  # what takes longest to make
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=served.url, timeout=60.0, trust_env=False, verify=context)
            )
            for _ in range(number)
        ]


def create_at_once(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """`count` creates at once behind one that runs, a queue of 32: 32 are accepted, others are told when to come back.

    The server must have been started with --queue-size 32.
    """
    wait_until_idle(served)
    before = num_finished(served)
    running = served.create(**ENDLESS)["id"]
    served.wait(running, "in_progress")
    answers, took = asyncio.run(_create_at_once(served, count))
    codes = Counter(answer.status_code for answer in answers)
    refused = [answer for answer in answers if answer.status_code == 429]
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    try:
        assert codes == {200: 32, 429: count - 32}, (codes, served.get(running))
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
        assert len(set(accepted)) == 32
    finally:
        for video_id in (*accepted, running):
            served.http.post(f"/v1/videos/{video_id}/cancel")
    wait_until_idle(served)
    ends = [served.get(video_id) for video_id in (running, *accepted)]
    assert {(end["status"], end["error"]["code"]) for end in ends} == {("failed", "cancelled")}
    assert num_finished(served) == before + 33
    assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    return {"creates": count, "accepted": 32, "429 with Retry-After": len(refused), "answered after, s": spread(took)}


async def _create_at_once(served: Served, number: int) -> tuple[list[httpx.Response], list[float]]:
    took: list[float] = []
    async with clients(served, number) as creators:

        async def create(http: httpx.AsyncClient) -> httpx.Response:
            began = time.monotonic()
            answer = await http.post("/v1/videos", json=ENDLESS)
            took.append(time.monotonic() - began)
            return answer

        return list(await asyncio.gather(*map(create, creators))), took


def add_up_overhead(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """From the call that creates a video to the event that it is done, less the time that its ranks report.

    One at a time on an idle server, and by the call that waits for the file.
    """
    served.completed(**SHORT)
    by_events, by_sync, inference = [], [], []
    for _ in range(count):
        began = time.monotonic()
        video_id = served.create(**SHORT)["id"]
        (done,) = [content for name, content in events_of(served, video_id) if name == "done"]
        by_events.append(time.monotonic() - began - done["inference_time_s"])
        inference.append(done["inference_time_s"])
        began = time.monotonic()
        answer = served.http.post("/v1/videos/sync", json=SHORT)
        assert answer.status_code == 200, answer.text
        by_sync.append(time.monotonic() - began - float(answer.headers["x-inference-time"]))
    return {
        "videos": 2 * count,
        "inference, s": spread(inference),
        "over it by events, s": spread(by_events),
        "over it by /v1/videos/sync, s": spread(by_sync),
    }
