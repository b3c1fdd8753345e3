"""Files as answers: what comes over a real connection for every kind of range and condition."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from obstore.store import MemoryStore
from starlette.types import Receive, Scope, Send

from ringlight.server.collection.media import MediaStore
from ringlight.server.http import http_error
from ringlight.server.http.content import FileAnswer, LocalFile
from tests.engine.processes import wait_until
from tests.forking import fork

SIZE = 1000
CONTENT = bytes(number % 251 for number in range(SIZE))
MODIFIED = 1_700_000_000

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """Serve an application in a thread; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("content") / "video.mp4"
    path.write_bytes(CONTENT)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


def files(path: Path) -> FastAPI:
    """An application that answers with a file, an empty one, and one that is gone."""
    app = FastAPI()
    http_error.install(app)

    @app.get("/file")
    @app.head("/file")
    async def _file() -> FileAnswer:
        return FileAnswer(LocalFile(path), "video/mp4", "clip.mp4")

    @app.get("/empty")
    async def _empty() -> FileAnswer:
        (path.parent / "empty").touch()
        return FileAnswer(LocalFile(path.parent / "empty"), "video/mp4", "empty.mp4")

    @app.get("/gone")
    async def _gone() -> FileAnswer:
        return FileAnswer(LocalFile(path.parent / "gone"), "video/mp4", "gone.mp4")

    return app


def stored_files() -> FastAPI:
    """The same of an object store, in memory."""
    media, video_id = MediaStore(MemoryStore(), "memory"), f"video_{'3' * 32}"
    app = FastAPI()
    http_error.install(app)
    for name, content in (("file", CONTENT), ("empty", b"")):
        media._store.put(f"videos/{video_id}/{name}", content)

    @app.get("/{name}")
    @app.head("/{name}")
    async def _file(name: str) -> FileAnswer:
        return FileAnswer(media.file(video_id, name), "video/mp4", "clip.mp4")

    return app


@pytest.fixture(scope="module", params=["disk", "store"])
def port(request: pytest.FixtureRequest, path: Path) -> Iterator[int]:
    """Where the files are had. All that is asked of one kind is asked of the other."""
    if request.param == "disk":
        with serving(files(path)) as port:
            yield port
        return
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:  # a process that has used obstore cannot be forked any more
        uvicorn.Server(uvicorn.Config(stored_files(), log_level="error", lifespan="off")).run(sockets=[listener])

    child = fork(work, os.environ, (listener.fileno(),))
    try:
        yield listener.getsockname()[1]
    finally:
        child.kill()
        child.wait()
        listener.close()


def ask(port: int, method: str = "GET", target: str = "/file", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def seconds_of(date: str) -> float:
    return parsedate_to_datetime(date).timestamp()


def test_the_whole_file(port: int) -> None:
    status, headers, body = ask(port)
    assert (status, body) == (200, CONTENT)
    assert headers["content-length"] == str(SIZE)
    assert headers["content-type"] == "video/mp4"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-disposition"] == 'inline; filename="clip.mp4"'
    assert parsedate_to_datetime(headers["last-modified"]).tzinfo is not None
    assert "content-range" not in headers


def test_a_file_of_the_disk_says_when_it_was_changed(path: Path) -> None:
    with serving(files(path)) as port:
        assert ask(port)[1]["last-modified"] == formatdate(MODIFIED, usegmt=True)


def test_the_head_alone(port: int) -> None:
    _, whole, _ = ask(port)
    status, headers, body = ask(port, "HEAD")
    assert (status, body) == (200, b"")
    assert {**headers, "date": ""} == {**whole, "date": ""}
    status, headers, body = ask(port, "HEAD", range="bytes=0-9")
    assert (status, headers["content-length"], body) == (206, "10", b"")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-999", 500, 1000),
        ("bytes=500-", 500, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-300", 700, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=999-9999999999999999999", 999, 1000),
        ("Bytes= 1 - 2 ", 1, 3),
    ],
)
def test_a_part(port: int, asked: str, start: int, stop: int) -> None:
    status, headers, body = ask(port, range=asked)
    assert (status, body) == (206, CONTENT[start:stop])
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-2000", "bytes=9999999999999999999-", "bytes=-0"])
def test_a_part_that_is_not_there_is_416_in_the_envelope(port: int, asked: str) -> None:
    status, headers, body = ask(port, range=asked)
    assert (status, headers["content-range"]) == (416, f"bytes */{SIZE}")
    assert b'"code":"range_not_satisfiable"' in body


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "0-1", "bytes=1" + "0" * 5000 + "-"],
)
def test_what_is_not_understood_is_answered_with_all(port: int, asked: str) -> None:
    status, _, body = ask(port, range=asked)
    assert (status, body) == (200, CONTENT)


def test_every_part_of_an_empty_file_is_outside(port: int) -> None:
    assert ask(port, target="/empty")[::2] == (200, b"")
    assert ask(port, target="/empty", range="bytes=0-")[0] == 416


def test_a_part_only_if_it_is_of_the_same_file(port: int) -> None:
    _, headers, _ = ask(port)
    for known in (headers["etag"], headers["last-modified"]):
        assert ask(port, range="bytes=0-9", if_range=known)[0] == 206
    earlier = seconds_of(headers["last-modified"]) - 1
    for other in ('"other"', "W/" + headers["etag"], formatdate(earlier, usegmt=True)):
        assert ask(port, range="bytes=0-9", if_range=other)[::2] == (200, CONTENT)


def test_nothing_if_the_client_has_it(port: int) -> None:
    _, headers, _ = ask(port)
    etag = headers["etag"]
    for known in (etag, f"W/{etag}", f'"a", {etag}', "*"):
        status, found, body = ask(port, if_none_match=known)
        assert (status, found["etag"], body) == (304, etag, b"")
    modified = seconds_of(headers["last-modified"])
    for seconds, status in ((modified, 304), (modified + 1, 304), (modified - 1, 200)):
        assert ask(port, if_modified_since=formatdate(seconds, usegmt=True))[0] == status
    assert ask(port, if_none_match='"other"', if_modified_since=headers["last-modified"])[0] == 200
    assert ask(port, if_modified_since="yesterday")[0] == 200


def test_a_file_that_is_gone_is_404_in_the_envelope(port: int) -> None:
    status, _, body = ask(port, target="/gone")
    assert status == 404
    assert b'"code":"not_found"' in body


def test_a_file_that_is_removed_meanwhile_still_comes_whole(tmp_path: Path) -> None:
    path, content = tmp_path / "large.mp4", os.urandom(20 * 2**20)
    path.write_bytes(content)
    app = FastAPI()

    @app.get("/file")
    async def _file() -> FileAnswer:
        return FileAnswer(LocalFile(path), "video/mp4", "clip.mp4")

    with serving(app) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/file")
        answer = connection.getresponse()
        first = answer.read(2**20)
        path.unlink()
        assert first + answer.read() == content
        connection.close()


def test_a_client_that_goes_away_ends_the_answer(tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(bytes(50 * 2**20))
    ended = threading.Event()
    app = FastAPI()

    class Watched(FileAnswer):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                ended.set()

    @app.get("/file")
    async def _file() -> FileAnswer:
        return Watched(LocalFile(tmp_path / "large.mp4"), "video/mp4", "clip.mp4")

    with serving(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /file HTTP/1.1\r\nHost: here\r\n\r\n")
            assert connection.recv(100)
            assert not ended.is_set()
        wait_until(ended.is_set)
