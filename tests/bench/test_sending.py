"""Sending requests: to a server that has neither events nor reports, that fails, and that is never done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight.bench.runner import Benchmark, RunningServer, Target
from ringlight.bench.sending import Recipient, Sample, Turn, send
from ringlight.bench.workload import Order
from ringlight.client import Client, transport
from tests.bench.test_workload import read
from tests.client.scripted import Answer, Scripted, refusal, scripted

VIDEO: dict[str, Any] = {"id": "video_1", "object": "video", "status": "queued", "created_at": 1}
DONE = VIDEO | {"status": "completed", "progress": 100, "inference_time_s": 1.5}
QUICK = {"openai-poll-after-ms": "10"}


@pytest.fixture
def script() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


def orders(count: int, at_seconds: float = 0.0) -> list[Order]:
    return [Order(kind=0, fields={"prompt": f"a boat {n}"}, at_seconds=at_seconds) for n in range(count)]


def sent(script: Scripted, asked: list[Order], timeout_seconds: float = 30.0, **told: Any) -> list[Sample]:
    """What became of them."""
    turn = Turn(column="server", round=1, timeout_seconds=timeout_seconds, **{"concurrency": 1} | told)
    found: list[Sample] = []
    with Client(script.url, max_retries=0) as client:
        send(Recipient(client), asked, turn, found.append)
    return found


def test_a_server_without_events_and_reports_is_polled_and_leaves_blanks(script: Scripted) -> None:
    script.on("POST /v1/videos", VIDEO)
    script.on("GET /v1/videos/video_1", Answer(VIDEO, headers=QUICK), Answer(VIDEO, headers=QUICK), DONE)
    (found,) = sent(script, orders(1))
    assert (found.fate, found.inference_seconds, found.report, found.error) == ("completed", 1.5, None, "")
    assert found.latency_seconds is not None and found.latency_seconds > 0


@pytest.mark.slow
def test_every_order_has_an_end_however_many_are_under_way(script: Scripted) -> None:
    script.on("POST /v1/videos", VIDEO)
    script.on("GET /v1/videos/video_1", DONE)
    for concurrency in (1, 3, 50, None):
        found = sent(script, orders(7), concurrency=concurrency)
        assert sorted(sample.place for sample in found) == list(range(7))
        assert {sample.fate for sample in found} == {"completed"}
    prompts = [asked.json()["prompt"] for asked in script.asked if asked.method == "POST"]
    assert sorted(prompts) == sorted(4 * [f"a boat {n}" for n in range(7)])


def test_orders_wait_for_their_moment(script: Scripted) -> None:
    script.on("POST /v1/videos", VIDEO)
    script.on("GET /v1/videos/video_1", DONE)
    early, late = sent(script, orders(1) + orders(1, at_seconds=0.3), concurrency=None)
    assert early.sent_seconds < late.sent_seconds and late.sent_seconds >= 0.3


def test_a_layout_is_asked_for_where_there_is_one(script: Scripted) -> None:
    script.on("POST /v1/videos", VIDEO)
    script.on("GET /v1/videos/video_1", DONE)
    sent(script, orders(1), layout="u1r2")
    sent(script, orders(1))
    asked = [asked.json() for asked in script.asked if asked.method == "POST"]
    assert asked == [{"prompt": "a boat 0", "layout": "u1r2"}, {"prompt": "a boat 0"}]


def test_what_fails_is_kept_with_its_cause(script: Scripted) -> None:
    failed = VIDEO | {"status": "failed", "error": {"code": "out_of_memory", "message": "too large"}}
    script.on("POST /v1/videos", refusal(400, "invalid_request", "size: no"), VIDEO, VIDEO)
    script.on("GET /v1/videos/video_1", failed, DONE)
    found = sent(script, orders(3))
    assert [(sample.fate, sample.error) for sample in found] == [
        ("failed", "invalid_request: size: no"),
        ("failed", "out_of_memory: too large"),
        ("completed", ""),
    ]


def test_a_server_that_is_gone_fails_the_request() -> None:
    with scripted() as script:
        pass
    (lost,) = sent(script, orders(1))
    assert lost.fate == "failed" and lost.error.startswith("unreachable: ")


def test_a_server_that_is_gone_is_asked_once_a_round(
    script: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it does not answer the warm-up of round 1, nor its four tries, and is back in round 2."""
    monkeypatch.setattr(transport, "FIRST_PAUSE_SECONDS", 0.01)
    script.on("POST /v1/videos", *[Answer(VIDEO, breaks_after=1)] * 4, VIDEO)
    script.on("GET /v1/videos/video_1", DONE)
    target = Target(running=(RunningServer(name="server", url=script.url),))
    found = Benchmark(read(tmp_path, "warm_up = 1\nrepeats = 2\n"), [], target, 2, tmp_path, lambda line: None)
    found.run()
    assert [(sample.round, sample.fate) for sample in found.samples] == [
        (number, fate) for number, fate in ((1, "failed"), (2, "completed")) for _ in range(2)
    ]
    assert all(sample.error.startswith("unreachable: ") for sample in found.samples[:2])
    assert sum(asked.method == "POST" for asked in script.asked) == 4 + 3


def test_what_is_not_over_in_time_is_cancelled(script: Scripted) -> None:
    script.on("POST /v1/videos", VIDEO)
    script.on("GET /v1/videos/video_1", Answer(VIDEO, headers=QUICK))
    script.on("POST /v1/videos/video_1/cancel", VIDEO)
    (found,) = sent(script, orders(1), timeout_seconds=0.2)
    assert (found.fate, found.error) == ("timed_out", "not over after 0.2 s")
    assert any(asked.path.endswith("/cancel") for asked in script.asked)
