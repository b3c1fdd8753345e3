"""Requests that are odd in their method, path, headers or pace, over real connections: nobody else waits for them."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.hostile import OPTIONS, SMALL_VIDEOS, check, connect, exchange, receive, request, unharmed
from tests.server.served import NOBODY, Served, serve

pytestmark = pytest.mark.slow  # a real server, or several processes


ALICE, BOB = "a" * 20, "b" * 20
KEYS = ("--api-key", f"alice:{ALICE}", "--api-key", f"bob:{BOB}")

IDS = [
    "..",
    "../" * 20 + "etc/passwd",
    "..%2f..%2f..%2fjobs.sqlite",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252f",
    "..%5c..%5cjobs.sqlite",
    "%c0%ae%c0%ae%c0%af",
    "%uff0e%uff0e",
    f"{NOBODY}%00",
    f"{NOBODY}%00.mp4",
    f"{NOBODY}%0d%0aX:%20y",
    f"{NOBODY}/",
    f"{NOBODY}/../{NOBODY}",
    f"{NOBODY};x=y",
    f"{NOBODY} ",
    f"%20{NOBODY}",
    NOBODY.upper(),
    NOBODY[:-1],
    f"{NOBODY}0",
    "video_" + "%D9%A0" * 32,
    "video_%F0%9F%8E%AC",
    "video_é",
    "video_%FF%FE",
    "%",
    "%zz",
    "*",
    "~root",
    "a" * 30_000,
    "%41" * 10_000,
    "video_'%20OR%201=1--",
    "CON",
    "input",
    "jobs.sqlite",
]


@pytest.fixture(scope="module")
def keyed_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two keys."""
    with serve(tmp_path_factory.mktemp("keyed"), tiny, *OPTIONS, *KEYS, **SMALL_VIDEOS) as server:
        yield server


@pytest.fixture
def server(keyed_server: Served) -> Iterator[Served]:
    """The same; a test that harms it fails."""
    with unharmed(keyed_server):
        yield keyed_server


def key(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def operations(server: Served) -> list[tuple[str, str]]:
    """Every method of every path, from the description."""
    paths: dict[str, dict[str, Any]] = server.http.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def make(server: Served, owner: str) -> str:
    """A completed video of an owner's."""
    created = server.http.post("/v1/videos", json={"prompt": "a paper boat"}, headers=key(owner)).json()["id"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        video = server.http.get(f"/v1/videos/{created}", headers=key(owner)).json()
        if video["status"] == "completed":
            return str(created)
        time.sleep(0.02)
    raise TimeoutError


# Ids and owners


@pytest.mark.parametrize("video_id", IDS, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_no_id_leads_anywhere(server: Served, video_id: str) -> None:
    for method, path in operations(server):
        if "{" in path:
            target = path.replace("{video_id}", video_id).replace("{model}", video_id)
            body = b'{"prompt": "x"}' if path.endswith("/remix") else b""
            told = key(ALICE) | {"Content-Type": "application/json"}
            answer = request(server.port, method, target, told, body)
            not_done = (501,) if "/characters/" in path else ()
            check(answer, *not_done, method=method, about=(method, target[:200]))
            assert answer.status in (not_done or (400, 404, 405)), (method, target[:200], answer)


def test_another_keys_video_is_none(server: Served) -> None:
    """Every path with an id answers the same as for an id that nobody has, byte for byte but for the id."""
    theirs = make(server, ALICE)
    bodies = {"/remix": {"prompt": "x"}, "/extensions": {"prompt": "x", "video": theirs}}
    seen = 0
    for method, path in operations(server):
        tail = path[path.rfind("/") :]
        if "{video_id}" not in path and tail not in bodies:
            continue
        answers = []
        for video_id in (theirs, NOBODY):
            content = json.dumps(bodies.get(tail, {})).replace(theirs, video_id).encode()
            told = key(BOB) | {"Content-Type": "application/json"}
            answer = request(server.port, method, path.replace("{video_id}", video_id), told, content)
            check(answer)
            assert answer.status == 404, (method, path, answer)
            answers.append(answer.body.replace(video_id.encode(), b""))
        assert answers[0] == answers[1]
        seen += 1
    assert seen >= 8
    assert server.http.get("/v1/videos", headers=key(BOB)).json()["data"] == []
    for query in (f"after={theirs}", f"after={theirs}&order=asc", f"after={theirs}&limit=100"):
        assert server.http.get(f"/v1/videos?{query}", headers=key(BOB)).status_code == 404
    assert server.http.get(f"/v1/videos/{theirs}/content", headers=key(ALICE)).status_code == 200


def test_a_repetition_finds_no_video_of_another_key(server: Served) -> None:
    body = {"prompt": "the same", "seed": 7}
    for repeated in ({"Idempotency-Key": "shared"}, {"x-stainless-retry-count": "1"}):
        ids = [
            server.http.post("/v1/videos", json=body, headers=key(owner) | repeated).json()["id"]
            for owner in (ALICE, BOB, ALICE, BOB)
        ]
        assert ids[0] == ids[2] and ids[1] == ids[3] and ids[0] != ids[1]
    other = server.http.post("/v1/videos", json=body | {"seed": 8}, headers=key(BOB) | {"Idempotency-Key": "shared"})
    assert other.status_code == 422  # of his own key's, which says nothing about hers
    hers = {"Idempotency-Key": "only hers"}
    server.http.post("/v1/videos", json=body, headers=key(ALICE) | hers).raise_for_status()
    his = server.http.post("/v1/videos", json=body | {"seed": 9}, headers=key(BOB) | hers)
    assert his.status_code == 200


# Methods, paths and headers

METHODS = [
    "HEAD",
    "OPTIONS",
    "TRACE",
    "PUT",
    "PATCH",
    "QUERY",
    "PROPFIND",
    "BREW",
    "get",
    "G" * 2000,
    "GET",
    "POST",
    "DELETE",
]


def test_any_method_on_any_path(server: Served) -> None:
    paths = {path.replace("{video_id}", NOBODY).replace("{model}", "m") for _, path in operations(server)}
    paths |= {
        "/",
        "/docs",
        "/openapi.json",
        "/page/page.css",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/v1",
        "/v1/",
    }
    for method, path in itertools.product(METHODS, sorted(paths)):
        answer = request(server.port, method, path, key(ALICE))
        check(answer, 501, method=method, about=(method, path))
        if answer.status == 405:
            assert method not in answer.headers["allow"].split(", "), (method, path)
        if method == "HEAD":
            assert answer.body == b""


@pytest.mark.parametrize(
    "target",
    [
        *("*", "//", "///v1//videos", "/v1/videos/", "/./v1/videos", "/v1/../etc/passwd", "http://elsewhere/v1/videos"),
        *("/%2fv1%2fvideos", "/v1/videos%00", "/v1/videos?", "/v1/videos#x", "?x", "/\\..\\", "/" + "a" * 60_000, "é"),
        *(
            "/v1/models/..%2f..",
            "/page/" + "../" * 50,
            "/page/%00",
            "/page/.",
            "/docs/",
            "/v1/videos/" + NOBODY + "/content/",
        ),
        *("here:443", "", "/v1/videos?" + "a=1&" * 10_000, "/v1/videos?limit=1&limit=2", "/v1/videos?limit[]=1"),
        *("/v1/videos?after=", "/v1/videos?after=%00", "/v1/videos?after=%ff", "/v1/videos?after=" + "a" * 50_000),
        *("/v1/videos?limit=0", "/v1/videos?limit=101", "/v1/videos?limit=1e2", "/v1/videos?limit=" + "9" * 5000),
        *("/v1/videos?order=x", "/v1/videos?order=%00", "/v1/videos?limit=%D9%A1", "/v1/videos?limit=NaN"),
    ],
    ids=lambda text: text[:40].encode("unicode_escape").decode(),
)
def test_odd_targets(server: Served, target: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        check(request(server.port, method, target, key(ALICE)), about=(method, target[:100]))


ODD = ["", " ", ",", "é", "\x7f", "a" * 60_000, "-1", "9" * 5000, "\u0661", '"', "%00", "..", "a\tb", "*", "NaN"]


def test_odd_headers(server: Served) -> None:
    names = ["authorization", "x-request-id", "idempotency-key", "x-stainless-retry-count", "traceparent", "tracestate"]
    names += [
        "accept",
        "accept-encoding",
        "origin",
        "sec-fetch-site",
        "host",
        "connection",
        "upgrade",
        "cookie",
        "expect",
    ]
    names += ["content-encoding", "forwarded", "x-forwarded-for", "referer", "te", "trailer", "content-length"]
    for name, value in itertools.product(names, ODD):
        for method, path, body in (
            ("GET", "/v1/videos", b""),
            ("POST", "/v1/videos", b'{"prompt": ""}'),
        ):
            told = {"Content-Type": "application/json", **key(ALICE)}
            told = {field: text for field, text in told.items() if field.lower() != name} | {name: value}
            answer = request(server.port, method, path, told, body, length=name != "content-length")
            check(answer, about=(name, value[:50], method))
            assert answer.headers["x-request-id"].isascii() and len(answer.headers["x-request-id"]) <= 128


def test_odd_ranges_and_conditions(server: Served) -> None:
    video = make(server, ALICE)
    for path in (f"/v1/videos/{video}/content", f"/v1/videos/{video}/content?variant=thumbnail"):
        whole = request(server.port, "GET", path, key(ALICE))
        check(whole)
        size, etag = len(whole.body), whole.headers["etag"]
        ranges = [
            f"bytes={part}"
            for part in ("-0", "-1", "0-", "5-2", "-", "a-b", "0-0,1-1", "1-" + "9" * 30, "9" * 30 + "-")
        ]
        ranges += [
            "bytes=" + "0-1," * 5000,
            f"bytes={size}-",
            f"bytes={size - 1}-",
            f"bytes=-{size * 2}",
            "bytes=\u0661-2",
            "bytes",
        ]
        ranges += [
            "rows=0-1",
            "bytes=0-18446744073709551616",
            "bytes = 0-1",
            "bytes=0-1;",
            "bytes=--1",
            "bytes=0x0-0x1",
            "",
        ]
        for method, asked in itertools.product(("GET", "HEAD"), ranges):
            answer = request(server.port, method, path, key(ALICE) | {"Range": asked}, b"")
            check(answer, method=method, about=asked[:50])
            assert answer.status in (200, 206, 416), asked[:50]
            if method == "GET":
                assert answer.body == whole.body or answer.status != 200
                assert int(answer.headers["content-length"]) == len(answer.body)
        for name, value in itertools.product(
            ("if-none-match", "if-match", "if-modified-since", "if-unmodified-since", "if-range"),
            (
                *ODD,
                etag,
                f"W/{etag}",
                f'"x", {etag}',
                etag * 1000,
                "Thu, 01 Jan 1970 00:00:00 GMT",
                "Thu, 99 Foo 99999",
            ),
        ):
            answer = request(server.port, "GET", path, key(ALICE) | {name: value, "Range": "bytes=0-0"})
            check(answer, about=(name, value[:50]))
            assert answer.status in (200, 206, 304, 400, 412), (name, value[:50])


# Pace


def head(body_bytes: int, owner: str = ALICE, *more: str) -> bytes:
    lines = [
        "POST /v1/videos HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {owner}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*lines, f"Content-Length: {body_bytes}", *more, "", ""]).encode()


def test_a_client_that_waits_to_be_told_to_go_on(server: Served) -> None:
    body = b'{"prompt": ""}'
    with connect(server.port) as connection:
        connection.sendall(head(len(body), ALICE, "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        answer = receive(connection, "POST")
        check(answer)
        assert answer.status == 400
    for told in (head(10**9, ALICE, "Expect: 100-continue"), head(10, "c" * 20, "Expect: 100-continue")):
        answer = exchange(server.port, told, "POST")  # which does not ask for a body that it will not read
        check(answer)
        assert answer.status in (401, 413)


def test_who_is_slow_keeps_nobody_waiting(server: Served) -> None:
    """A hundred heads and two hundred bodies that do not end, while another is answered a hundred times."""
    beginnings = [
        b"",
        b"G",
        b"GET /livez HTTP/1.1\r\nHost: he",
        head(100),
        head(100) + b'{"prompt": ',
        head(10**6) + bytes(10_000),
    ]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server.port)) for _ in range(300)]
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % len(beginnings)])
        ending = threading.Event()

        def drip() -> None:
            while not ending.wait(0.05):
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(100):
                check(request(server.port, "GET", "/v1/videos", key(ALICE)))
            assert make(server, BOB)
        finally:
            ending.set()
            dripping.join()


def test_who_goes_away_in_the_middle(server: Served) -> None:
    """At any byte of a request, politely or by a reset; what was not whole made no video."""
    before = server.http.get("/v1/videos?limit=100", headers=key(ALICE)).json()["data"]
    content = head(40) + b'{"prompt": "never whole"'
    for number, cut in enumerate(range(1, len(content), 5)):
        with connect(server.port) as connection:
            connection.sendall(content[:cut])
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    check(request(server.port, "GET", "/v1/videos", key(ALICE)))
    assert server.http.get("/v1/videos?limit=100", headers=key(ALICE)).json()["data"] == before


def test_many_requests_on_one_connection(server: Served) -> None:
    """Sent all at once; each is answered, in order."""
    asked = b"".join(
        f"GET /v1/videos/{number} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode()
        for number in range(200)
    )
    with connect(server.port) as connection:
        connection.sendall(asked.replace(b"199 HTTP/1.1\r\n", b"199 HTTP/1.1\r\nConnection: close\r\n"))
        answered = connection.makefile("rb").read()
    assert answered.count(b"HTTP/1.1 404 ") == 200
    assert [answered.find(f"'{number}'".encode()) for number in range(200)] == sorted(
        answered.find(f"'{number}'".encode()) for number in range(200)
    )
