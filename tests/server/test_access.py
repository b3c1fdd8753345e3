"""Who may see what: keys, owners, and ids that are none."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.processes import wait_until
from tests.server.served import NOBODY, SMALL, Served, error_of, serve

pytestmark = pytest.mark.slow  # a real server, or several processes


NO_BATCH = "batch_" + "0" * 32
ALICE, BOB = "a" * 20, "b" * 20


@pytest.fixture(scope="module")
def guarded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two keys."""
    keys = ("--api-key", f"alice:{ALICE}", "--api-key", f"bob:{BOB}")
    folder = tmp_path_factory.mktemp("guarded")
    with serve(folder, tiny, *keys, "--no-warm-up", "--drain-timeout", 0, "--max-body-bytes", 100_000) as server:
        yield server


def key(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize("tail", ["", "/content", "/report", "/events"])
@pytest.mark.parametrize(
    "video_id",
    [
        NOBODY,
        "video_",
        "..",
        "%2e%2e",
        "..%2f..%2fjobs.sqlite",
        "%2e%2e%2f" + NOBODY,
        NOBODY + "%00",
        NOBODY + "%0a",
        NOBODY.upper(),
        "video_%F0%9F%8E%AC",
        "video_%FF",
        "x" * 5000,
        "'%20OR%201=1--",
    ],
)
def test_ids_of_no_video_are_404(served: Served, video_id: str, tail: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)  # which sends paths as they are
    for method in ("GET", "DELETE", "POST") if not tail else ("GET",):
        path = f"/v1/videos/{video_id}{tail}" if method != "POST" else f"/v1/videos/{video_id}/cancel"
        connection.request(method, path)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert (answer.status, body["error"]["code"]) == (404, "not_found"), (method, path)
    connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/videos"),
        ("GET", "/v1/videos"),
        ("GET", f"/v1/videos/{NOBODY}"),
        ("DELETE", f"/v1/videos/{NOBODY}"),
        ("GET", f"/v1/videos/{NOBODY}/content"),
        ("HEAD", f"/v1/videos/{NOBODY}/content"),
        ("POST", f"/v1/videos/{NOBODY}/remix"),
        ("POST", "/v1/videos/extensions"),
        ("POST", "/v1/videos/edits"),
        ("POST", f"/v1/videos/{NOBODY}/cancel"),
        ("GET", f"/v1/videos/{NOBODY}/report"),
        ("GET", f"/v1/videos/{NOBODY}/events"),
        ("POST", "/v1/videos/sync"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/check"),
        ("GET", "/v1/batches"),
        ("GET", f"/v1/batches/{NO_BATCH}"),
        ("DELETE", f"/v1/batches/{NO_BATCH}"),
        ("POST", f"/v1/batches/{NO_BATCH}/cancel"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/any"),
        ("GET", "/metrics"),
    ],
)
def test_nothing_without_a_key(guarded: Served, method: str, path: str) -> None:
    for headers in (
        {},
        key("c" * 20),
        {"Authorization": "Bearer"},
        {"Authorization": ALICE},
        {"Authorization": f"Basic {ALICE}"},
    ):
        answer = guarded.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers
        if method != "HEAD":
            assert error_of(answer)["code"] == "invalid_api_key"
    assert guarded.http.request(method, path, headers=key(ALICE)).status_code != 401


def test_no_path_of_the_api_is_left_out_of_that(guarded: Served) -> None:
    """Whatever is added later needs a key too."""
    for path, methods in guarded.http.get("/openapi.json").json()["paths"].items():
        for method in methods:
            answer = guarded.http.request(
                method,
                path.replace("{video_id}", NOBODY).replace("{batch_id}", "batch_" + "0" * 32).replace("{model}", "m"),
            )
            is_open = path in ("/livez", "/readyz", "/health", "/version")
            assert (answer.status_code != 401) is is_open, path


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/version", "/docs", "/openapi.json", "/"])
def test_what_needs_no_key(guarded: Served, path: str) -> None:
    assert guarded.http.get(path).status_code == 200


def test_a_key_sees_only_its_own(guarded: Served) -> None:
    created = guarded.http.post("/v1/videos", json=SMALL, headers=key(ALICE)).json()
    path = f"/v1/videos/{created['id']}"

    def is_made() -> bool:
        return bool(guarded.http.get(path, headers=key(ALICE)).json()["status"] == "completed")

    wait_until(is_made)
    theirs: list[Callable[[], httpx.Response]] = [
        lambda: guarded.http.get(path, headers=key(BOB)),
        lambda: guarded.http.get(f"{path}/content", headers=key(BOB)),
        lambda: guarded.http.get(f"{path}/report", headers=key(BOB)),
        lambda: guarded.http.get(f"{path}/events", headers=key(BOB)),
        lambda: guarded.http.post(f"{path}/cancel", headers=key(BOB)),
        lambda: guarded.http.post(f"{path}/remix", json={"prompt": "x"}, headers=key(BOB)),
        lambda: guarded.http.get(f"/v1/videos?after={created['id']}", headers=key(BOB)),
        lambda: guarded.http.post(
            "/v1/videos/extensions", json={"prompt": "x", "seconds": "1", "video": created["id"]}, headers=key(BOB)
        ),
        lambda: guarded.http.delete(path, headers=key(BOB)),
    ]
    for ask in theirs:
        answer = ask()
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    assert guarded.http.get("/v1/videos", headers=key(BOB)).json()["data"] == []
    mine = guarded.http.get("/v1/videos", headers=key(ALICE)).json()["data"]
    assert [video["id"] for video in mine] == [created["id"]]
    assert guarded.http.get(f"{path}/content", headers=key(ALICE)).status_code == 200


def test_an_idempotency_key_is_its_owners(guarded: Served) -> None:
    same = {"Idempotency-Key": "one"}
    ids = [
        guarded.http.post("/v1/videos", json=SMALL, headers=key(owner) | same).json()["id"]
        for owner in (ALICE, BOB, ALICE)
    ]
    assert ids[0] == ids[2] != ids[1]


def test_a_body_over_the_limit(guarded: Served) -> None:
    answer = guarded.http.post("/v1/videos", json={"prompt": "x" * 100_001}, headers=key(ALICE))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
