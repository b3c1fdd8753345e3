"""The real client of OpenAI, over a transport that counts and can lose answers."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
from openai import OpenAI
from openai.types import Video

from tests.server.served import LONG, SMALL, Served

REST = {name: value for name, value in SMALL.items() if name not in ("prompt", "size")}
"""What the client has no arguments for."""
OMITTED: Any = openai.omit
LONGER = {name: value for name, value in LONG.items() if name not in ("prompt", "size")}


class Counting(httpx2.HTTPTransport):
    """Counts requests; loses the answers to the first `num_lost` of them after the server has sent them."""

    def __init__(self, num_lost: int = 0) -> None:
        super().__init__()
        self.sent: list[httpx2.Request] = []
        self._num_lost = num_lost

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request)
        response = super().handle_request(request)
        if len(self.sent) <= self._num_lost:
            response.read()
            raise httpx2.ReadError("the answer was lost")
        return response


def openai_client(served: Served, transport: Counting) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="any", http_client=httpx2.Client(transport=transport))


def create(client: OpenAI, **more: Any) -> Video:
    fields: Any = {"prompt": "a paper boat", "size": "64x64", "extra_body": REST} | more
    return client.videos.create(**fields)


def poll(client: OpenAI, video: Video) -> Video:
    done = client.videos.poll(video.id, poll_interval_ms=50)
    assert done.status == "completed", done.error
    return done


def extend(client: OpenAI, video_id: str) -> Video:
    """The client's own argument takes no object, whatever its types say."""
    fields: Any = {"prompt": "the sea", "seconds": "0.2", "video": OMITTED, "extra_body": {"video": {"id": video_id}}}
    return client.videos.extend(**fields)
