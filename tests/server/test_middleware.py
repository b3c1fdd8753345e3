"""Ids, headers and bounds of every request, over a real connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from ringlight.core.settings import ServeSettings
from ringlight.server.http import http_error, middleware
from tests.server.serving import serving

LIMIT = 100_000


def make_app(**settings: object) -> FastAPI:
    app = FastAPI()
    http_error.install(app)
    middleware.install(app, ServeSettings(max_body_bytes=LIMIT, **settings))  # type: ignore[arg-type]

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/careless")
    async def careless(request: Request) -> str:
        try:
            await request.body()
        except Exception:  # what an application must not be able to hide
            return "all is well"
        return "it came"

    @app.get("/id")
    async def identity(request: Request) -> list[str]:
        return [request.state.request_id, structlog.contextvars.get_contextvars()["request_id"]]

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>")

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(make_app()) as address:
        yield address


def test_a_plain_id_is_kept_and_another_replaced(address: str) -> None:
    kept = httpx.get(f"{address}/id", headers={"x-request-id": "trace:1.a_B-9"})
    assert kept.headers["x-request-id"] == "trace:1.a_B-9"
    assert kept.json() == ["trace:1.a_B-9"] * 2
    for bad in ("a b", "x" * 129, "é", 'a"b', ""):
        answer = httpx.get(f"{address}/id", headers=[(b"x-request-id", bad.encode())])
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.json() == [answer.headers["x-request-id"]] * 2


def test_headers_for_browsers(address: str) -> None:
    page, api = httpx.get(f"{address}/page"), httpx.get(f"{address}/id")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert api.headers["content-security-policy"].startswith("default-src 'none'")
    for answer in (page, api, httpx.get(f"{address}/nowhere")):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/size", "/careless"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_over_the_limit(address: str, path: str, streamed: bool) -> None:
    """The client sends all of its 20 MB and sees the answer: the connection is not cut under it."""
    with httpx.Client(base_url=address) as client:
        for _ in range(3):
            body = b"x" * 20_000_000
            response = client.post(
                path, content=iter([body[i : i + 65536] for i in range(0, len(body), 65536)]) if streamed else body
            )
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "body_too_large"
            assert str(LIMIT) in response.json()["error"]["message"]
            assert response.headers["x-request-id"]
        assert client.post(path, content=b"x" * LIMIT).status_code == 200


def test_a_declared_length_is_refused_before_the_body_comes(address: str) -> None:
    target = urlsplit(address)
    with socket.create_connection((target.hostname, target.port), timeout=5) as connection:
        connection.sendall(
            b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_pages_of_other_sites_may_not_act(address: str) -> None:
    for site in ("cross-site", "same-site"):
        response = httpx.post(f"{address}/size", headers={"sec-fetch-site": site, "origin": "https://evil.example"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    for headers in ({}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert httpx.post(f"{address}/size", headers=headers).status_code == 200
    assert httpx.get(f"{address}/page", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_pages_of_other_sites_may_not_act_where_a_browser_does_not_say_whose_they_are(address: str) -> None:
    """Over http to another machine it sends their origin alone."""
    host = urlsplit(address).netloc
    port = urlsplit(address).port
    for origin in (
        "https://evil.example",
        "null",
        "",
        f"http://evil.example:{port}",
        "http://127.0.0.1:1",
        "http://[x",
    ):
        response = httpx.post(f"{address}/size", headers={"origin": origin})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden"), origin
    for origin, asked in ((address, host), ("http://box.lan", "box.lan"), ("https://Box.lan", "box.lan:443")):
        assert httpx.post(f"{address}/size", headers={"origin": origin, "host": asked}).status_code == 200
    for asked in ("box.lan:81", "box.lan:x", "other.lan"):
        assert httpx.post(f"{address}/size", headers={"origin": "http://box.lan", "host": asked}).status_code == 403


def test_origins_that_the_operator_allows() -> None:
    origin = "https://studio.example"
    asks = {"origin": origin, "sec-fetch-site": "cross-site"}
    with serving(make_app(cors_origin=(origin,))) as address:
        preflight = httpx.options(
            f"{address}/size",
            headers=asks | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"},
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = httpx.post(f"{address}/size", headers=asks, content=b"abc")
        assert answer.json() == 3
        assert "openai-poll-after-ms" in answer.headers["access-control-expose-headers"]
        too_large = httpx.post(f"{address}/size", headers=asks, content=b"x" * (LIMIT + 1))
        assert too_large.status_code == 413
        assert too_large.headers["access-control-allow-origin"] == origin
        other = httpx.post(f"{address}/size", headers=asks | {"origin": "https://evil.example"})
        assert other.status_code == 403
