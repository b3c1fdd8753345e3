"""Requests that are sent twice: which of them are one."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.server.sdk import Counting, create, openai_client, poll
from tests.server.served import Served

pytestmark = pytest.mark.slow  # a real server, or several processes


@pytest.fixture
def transport() -> Counting:
    return Counting()


@pytest.fixture
def client(served: Served, transport: Counting) -> Iterator[OpenAI]:
    with openai_client(served, transport) as client:
        yield client


def test_a_lost_answer_makes_one_video(served: Served) -> None:
    """The client sends a POST again without an idempotency key when its answer is lost."""
    prompt = f"a lost answer {time.time()}"
    transport = Counting(num_lost=2)
    with openai_client(served, transport) as client:
        video = create(client, prompt=prompt, input_reference=("a.png", picture(), "image/png"))
        counts = [request.headers["x-stainless-retry-count"] for request in transport.sent]
        assert counts == ["0", "1", "2"]
        found = [each.id for each in client.videos.list(limit=100) if each.prompt == prompt]
        assert found == [video.id]
        again = create(client, prompt=prompt, input_reference=("a.png", picture(), "image/png"))
        assert again.id != video.id  # nobody said that this is the same
        poll(client, again)


def picture() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(encoded, "PNG")
    return encoded.getvalue()


def test_an_idempotency_key(client: OpenAI) -> None:
    key = {"Idempotency-Key": f"key {time.time()}"}
    first = create(client, extra_headers=key)
    assert create(client, extra_headers=key).id == first.id
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        create(client, prompt="another", extra_headers=key)
    assert caught.value.code == "idempotency_conflict"
    poll(client, first)
    assert create(client, extra_headers=key).id == first.id
    client.videos.delete(first.id)
    assert create(client, extra_headers=key).id != first.id  # what is gone is nobody's


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({}, {}, False),
        ({"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "0"}, False),
        ({"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "1"}, True),
        ({}, {"x-stainless-retry-count": "2"}, True),
        ({}, {"x-stainless-retry-count": "many"}, False),
        ({"Idempotency-Key": "k1"}, {"x-stainless-retry-count": "1"}, False),
        ({"Idempotency-Key": "k2", "x-stainless-retry-count": "0"}, {"Idempotency-Key": "k2"}, True),
        ({"Idempotency-Key": "k3"}, {"Idempotency-Key": "k4"}, False),
    ],
    ids=str,
)
def test_which_requests_are_one(
    served: Served, first: dict[str, str], second: dict[str, str], is_same: bool, request: pytest.FixtureRequest
) -> None:
    prompt = request.node.name
    ids = [served.create(headers, prompt=prompt)["id"] for headers in (first, second)]
    assert (ids[0] == ids[1]) is is_same
    for video_id in ids:
        served.wait(video_id)


def test_a_repetition_of_another_body_is_another(served: Served) -> None:
    first = served.create(prompt="one body")
    other = served.create({"x-stainless-retry-count": "1"}, prompt="another body")
    assert first["id"] != other["id"]


def test_a_remix_that_is_repeated_is_one(served: Served, finished: dict[str, Any]) -> None:
    path, body = f"/v1/videos/{finished['id']}/remix", {"prompt": "a stone"}
    answers = [served.http.post(path, json=body, headers=headers) for headers in ({}, {"x-stainless-retry-count": "1"})]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert answers[0].json()["id"] == answers[1].json()["id"]
