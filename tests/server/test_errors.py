"""Whatever goes wrong, the answer is the envelope with a code of the table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ringlight.core import errors as core
from ringlight.core.codes import CODES
from ringlight.core.settings import ServeSettings
from ringlight.server.http import http_error, middleware
from ringlight.server.http.http_error import HttpError, to_api_error
from tests.server.serving import serving

RAISED: dict[str, Exception] = {
    "invalid": core.InvalidRequest([core.Problem("image", "is damaged"), core.Problem("fps", "0 is bad", "1")]),
    "full": core.QueueFull("32 videos wait", 2.1),
    "store": core.StoreError("disk I/O error"),
    "worker": core.WorkerError("rank 1 died"),
    "missing": core.NotFound("there is no video_1"),
    "conflict": http_error.Conflict("video_1 is queued"),
    "unsupported": http_error.NotImplementedHere("this model cannot edit"),
    "again": http_error.IdempotencyConflict("another body"),
    "early": http_error.VideoNotReady("video_1 is queued"),
    "api": HttpError(401, "invalid_api_key", "no such key", headers={"WWW-Authenticate": "Bearer"}),
    "stopping": HttpError(503, "unavailable", "the server is stopping"),
    "teapot": HTTPException(418, "short and stout"),
    "large": HTTPException(413),
    "bug": ZeroDivisionError("secret of the inside"),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = FastAPI()
    http_error.install(app)
    middleware.install(app, ServeSettings())

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise RAISED[name]

    @app.get("/list")
    async def number(limit: Annotated[int, Query(le=100)], order: int = 0) -> int:
        return limit

    with serving(app) as address:
        yield address


def envelope(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] in CODES
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize(
    ("name", "status", "code", "kind"),
    [
        ("invalid", 400, "invalid_request", "invalid_request_error"),
        ("full", 429, "queue_full", "rate_limit_error"),
        ("store", 503, "store_error", "server_error"),
        ("worker", 503, "worker_error", "server_error"),
        ("missing", 404, "not_found", "invalid_request_error"),
        ("conflict", 409, "video_not_finished", "invalid_request_error"),
        ("unsupported", 501, "unsupported", "invalid_request_error"),
        ("again", 422, "idempotency_conflict", "invalid_request_error"),
        ("early", 404, "video_not_ready", "invalid_request_error"),
        ("api", 401, "invalid_api_key", "invalid_request_error"),
        ("stopping", 503, "unavailable", "server_error"),
        ("teapot", 418, "invalid_request", "invalid_request_error"),
        ("large", 413, "body_too_large", "invalid_request_error"),
        ("bug", 500, "internal_error", "server_error"),
    ],
)
def test_every_error_is_in_the_envelope(address: str, name: str, status: int, code: str, kind: str) -> None:
    response = httpx.get(f"{address}/raise/{name}")
    error = envelope(response)
    assert (response.status_code, error["code"], error["type"]) == (status, code, kind)


def test_all_problems_are_named_and_the_first_is_the_param(address: str) -> None:
    error = envelope(httpx.get(f"{address}/raise/invalid"))
    assert error["message"] == "input_reference: is damaged; fps: 0 is bad (nearest: 1)"
    assert error["param"] == "input_reference"


def test_clients_are_told_when_to_come_back_and_when_not(address: str) -> None:
    headers = {name: httpx.get(f"{address}/raise/{name}").headers for name in RAISED}
    assert headers["full"]["retry-after"] == "3"
    assert int(headers["store"]["retry-after"]) > 0
    assert {name for name, given in headers.items() if given.get("x-should-retry") == "false"} == {
        "conflict",
        "unsupported",
    }
    assert headers["api"]["www-authenticate"] == "Bearer"


def test_the_inside_of_a_defect_stays_inside(address: str, caplog: pytest.LogCaptureFixture) -> None:
    response = httpx.get(f"{address}/raise/bug", headers={"x-request-id": "mine-1"})
    assert "secret" not in response.text
    assert "ZeroDivisionError: secret of the inside" in caplog.text
    assert response.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(("name", "level", "said"), [("stopping", "INFO", "is refused"), ("store", "ERROR", "failed")])
def test_what_is_refused_for_now_has_not_failed(
    address: str, caplog: pytest.LogCaptureFixture, name: str, level: str, said: str
) -> None:
    with caplog.at_level(logging.INFO):
        httpx.get(f"{address}/raise/{name}")
    (record,) = [each for each in caplog.records if each.name == http_error.__name__]
    assert record.levelname == level and f"/raise/{name} {said}: " in record.message


def test_what_the_framework_answers_itself(address: str) -> None:
    unknown = httpx.get(f"{address}/nowhere")
    assert (unknown.status_code, envelope(unknown)["code"]) == (404, "not_found")
    assert "/nowhere" in envelope(unknown)["message"]
    method = httpx.delete(f"{address}/list")
    assert (method.status_code, envelope(method)["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "GET"
    parameters = httpx.get(f"{address}/list?limit=101&order=x")
    error = envelope(parameters)
    assert (parameters.status_code, error["code"], error["param"]) == (400, "invalid_request", "limit")
    assert "order" in error["message"]


def test_a_defect_outside_of_the_application_too() -> None:
    class Broken:
        def __init__(self, app: ASGIApp) -> None: ...

        async def __call__(self, *_: object) -> None:
            raise KeyError("outside")

    app = FastAPI()
    http_error.install(app)
    app.add_middleware(Broken)
    with serving(app) as address:
        response = httpx.get(address)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


def test_the_table_knows_every_code() -> None:
    def kinds(kind: type[core.RinglightError]) -> set[type[core.RinglightError]]:
        return {kind}.union(*(kinds(child) for child in kind.__subclasses__()))

    rooms = ("ringlight.core.", "ringlight.engine.", "ringlight.server.")
    ours = {kind for kind in kinds(core.RinglightError) if kind.__module__.startswith(rooms) and kind is not HttpError}
    assert {kind.code for kind in ours} <= CODES.keys()
    for code, entry in CODES.items():
        assert 400 <= entry.status < 600
        assert entry.meaning.endswith((".", ";")) and entry.remedy.endswith("."), code


def test_an_error_without_an_entry_is_not_lost() -> None:
    class Strange(core.RinglightError):
        code = "never_heard_of"

    answer = to_api_error(Strange("what"))
    assert (answer.status, answer.code, answer.message) == (500, "error", "what")
