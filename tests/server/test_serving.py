"""How a server begins and ends: it listens before it is ready, and lets go what runs; connections are bounded."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse

from ringlight.bench.servers import LISTENING
from ringlight.client import Client
from ringlight.core.errors import InvalidSetting
from ringlight.core.settings import ServeSettings
from ringlight.server.http import connection
from ringlight.server.http.connection import Connection
from ringlight.server.serving import listen, url_of
from tests.engine.processes import ends, wait_until
from tests.server.served import LONG, SMALL, Served, error_of

pytestmark = pytest.mark.slow  # a real server, or several processes


@contextmanager
def starting(folder: Path, checkpoint: Path, *options: object) -> Iterator[Served]:
    """A server that has only just been started; whatever happens, it ends."""
    server = Served(folder, checkpoint, *options)
    try:
        yield server
    finally:
        server.http.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_it_listens_before_it_is_ready(tiny: Path, tmp_path: Path) -> None:
    with starting(tmp_path, tiny) as server:
        server.wait_until_listening()
        not_ready = server.http.get("/readyz")
        assert (not_ready.status_code, error_of(not_ready)["code"]) == (503, "unavailable")
        assert "retry-after" in not_ready.headers
        assert server.http.get("/health").json()["status"] == "starting"
        video = server.create()  # which waits
        assert video["status"] == "queued"
        server.wait_until_ready()
        server.wait(video["id"])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_it_lets_go_what_runs_and_keeps_what_waits(tiny: Path, tmp_path: Path) -> None:
    with starting(tmp_path, tiny, "--drain-timeout", 60, "--no-warm-up") as server:
        server.wait_until_ready()
        running = server.create(**SMALL | {"num_inference_steps": 120, "priority": 1})
        server.wait(running["id"], "in_progress")
        waiting = [server.create(prompt=f"waits {number}")["id"] for number in range(2)]
        with server.http.stream("GET", f"/v1/videos/{waiting[0]}/events") as listening:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.http.get("/health").json()["status"] == "draining")
            refused = server.http.post("/v1/videos", json=SMALL)
            assert refused.status_code == 503
            assert server.http.get("/readyz").status_code == 503
            assert server.get(running["id"])["status"] == "in_progress"  # it still answers
            assert server.process.wait(60) == 0
            with suppress(httpx.TransportError):
                assert "event: done" not in listening.read().decode()
    with starting(tmp_path, tiny, "--no-warm-up") as server:
        server.wait_until_listening()
        assert server.get(running["id"])["status"] == "completed"
        for video_id in waiting:
            server.wait(video_id)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0


def test_a_second_signal_does_not_wait(tiny: Path, tmp_path: Path) -> None:
    """Also one of the other kind."""
    with starting(tmp_path, tiny, "--drain-timeout", 3600, "--no-warm-up") as server:
        server.wait_until_ready()
        running = server.create(**LONG | {"num_frames": 17})
        server.wait(running["id"], "in_progress")
        (worker,) = children_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.http.get("/health").json()["status"] == "draining")
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert ends(worker)
    with starting(tmp_path, tiny, "--no-warm-up") as server:
        server.wait_until_listening()
        assert server.get(running["id"])["status"] in ("queued", "in_progress")


def children_of(pid: int) -> set[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for children in threads for child in children.read_text().split()}


def test_an_address_that_is_taken_is_an_invalid_setting() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(InvalidSetting, match=r"cannot listen on 127\.0\.0\.1 port"):
        listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(InvalidSetting, match=r"cannot listen on nowhere\.invalid"):
        listen("nowhere.invalid", 0)


@pytest.mark.parametrize("host", ["[::1]", "::1", "127.0.0.1"])
def test_an_ipv6_address_may_stand_in_brackets_and_is_printed_in_them(host: str) -> None:
    try:
        listener = listen(ServeSettings(host=host).address, 0)
    except InvalidSetting as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listener:
        url, port = url_of(listener), listener.getsockname()[1]
        assert url == f"http://{'[::1]' if ':' in host else host}:{port}"
        found = LISTENING.search(f'"event": "listening on {url}"')
        assert found is not None and found[1] == url, "bench reads it from the log"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                assert f"Host: {url.removeprefix('http://')}".encode() in connection.recv(4096)
                connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"status":"ready"}')

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(url, max_retries=0) as client:
            assert client.is_ready()
        thread.join()


# Connections


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of at most four connections and little patience, that answers with a word, or with 20 MB as files go."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.5)

    async def app(scope: dict[str, str], receive: object, send: object) -> None:
        answer = StreamingResponse(large()) if scope["path"] == "/large" else PlainTextResponse("here")
        await answer(scope, receive, send)  # type: ignore[arg-type]

    async def large() -> AsyncIterator[bytes]:
        for _ in range(20 * 16):
            yield bytes(2**16)

    config = uvicorn.Config(app, http=Connection, lifespan="off", log_level="critical", limit_concurrency=4)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield port
        server.should_exit = True
        thread.join()


def connect(port: int, *, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    return client


def ask(client: socket.socket, path: str = "/") -> bytes:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    return client.recv(10_000)


def test_a_connection_too_many_is_told_to_come_back(port: int) -> None:
    clients = [connect(port) for _ in range(4)]
    assert all(b"200 OK" in ask(client) for client in clients)
    with connect(port) as one_more:
        one_more.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        head, _, body = one_more.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"x-request-id: req_" in head
        assert b"retry-after: " in head.lower()
        assert json.loads(body)["error"]["code"] == "unavailable"
    for client in clients:
        client.close()
    wait_until(lambda: is_answered(port))


def test_far_too_many_are_closed_at_once(port: int) -> None:
    clients = [connect(port) for _ in range(8)]
    with connect(port) as one_more, suppress(ConnectionResetError):
        assert one_more.recv(100) == b""
    for client in clients:
        client.close()


def test_who_never_sends_a_whole_head_is_let_go(port: int) -> None:
    for beginning in (b"", b"GET / HTTP/1.1\r\nHos"):
        with connect(port) as client:
            client.sendall(beginning)
            with suppress(ConnectionResetError):
                assert client.recv(100) == b""


def test_who_drips_a_head_is_let_go(port: int) -> None:
    def drip(client: socket.socket) -> None:
        for letter in b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000:
            client.sendall(bytes([letter]))
            time.sleep(0.02)

    with connect(port) as client, pytest.raises(OSError):
        drip(client)


def test_who_takes_nothing_is_let_go(port: int) -> None:
    with connect(port, receive_bytes=4096) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        received = len(client.recv(100))
        time.sleep(1.5)
        with suppress(ConnectionResetError):
            while chunk := client.recv(2**20):
                received += len(chunk)
        assert received < 20 * 2**20


def test_who_reads_slowly_gets_all(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In longer than a stall may last, of which no pause comes near, also on a busy machine."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 2.0)
    with connect(port, receive_bytes=64 * 1024) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        received, began = 0, time.monotonic()
        while chunk := client.recv(256 * 2**10):
            received += len(chunk)
            time.sleep(0.01 if time.monotonic() < began + 3.0 else 0.0)
        assert received > 20 * 2**20
        assert time.monotonic() > began + connection.STALL_SECONDS


def is_answered(port: int) -> bool:
    with connect(port) as client:
        return b"200 OK" in ask(client)


def test_a_folder_of_another_database_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    """It would be cleared of all its videos, which no job here knows."""
    video = tmp_path / "data" / "videos" / f"video_{'0' * 32}" / "video.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"a film")
    with starting(tmp_path, tiny, "--no-warm-up") as server:
        assert server.process.wait(60) == 3
        (line,) = [line for line in server.log.splitlines() if "data-dir" in line]
        assert "--store-url" in line
    assert video.read_bytes() == b"a film"
