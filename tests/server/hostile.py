"""Sending a server what no client library would send, and seeing that it takes no harm."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.server.served import Served

JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=b"

PATIENCE_SECONDS = 30.0  # generous: a test is no clock
MOST_GROWTH_BYTES = 200 * 10**6
MAX_BODY_BYTES = 1_000_000

SMALL_VIDEOS = {"RINGLIGHT_MAX_PIXELS": "4096", "RINGLIGHT_MAX_FRAMES": "5", "RINGLIGHT_MAX_STEPS": "2"}
"""What is accepted of all that is sent is made in a moment."""
OPTIONS = (
    *("--drain-timeout", 0, "--max-body-bytes", MAX_BODY_BYTES, "--default", "width=32", "--default", "height=32"),
    *("--default", "num_frames=1", "--default", "num_inference_steps=1"),
)


class Answer(NamedTuple):
    """What came back, and after how many seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The envelope, which is all of the answer."""
        assert self.headers["content-type"] == "application/json", self
        found = json.loads(self.body)
        assert found.keys() == {"error"}
        assert found["error"].keys() == {"message", "type", "param", "code"}
        assert found["error"]["message"] and found["error"]["code"] and found["error"]["type"]
        return dict(found["error"])


def connect(port: int) -> socket.socket:
    """A connection to a server of this machine, with patience."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def receive(connection: socket.socket, method: str = "GET", began: float | None = None) -> Answer:
    """The answer to what was sent. `began`: when that was."""
    began = time.monotonic() if began is None else began
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body, time.monotonic() - began)


def exchange(port: int, content: bytes, method: str = "GET") -> Answer:
    """Send these bytes on a connection of their own; what is answered first. `method` says whether a body may come."""
    began = time.monotonic()
    with connect(port) as connection:
        connection.sendall(content)
        return receive(connection, method, began)


def request(
    port: int,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    length: bool = True,
) -> Answer:
    """A request whose method, target and headers go as they are, in UTF-8. `length`: whether it tells the body's."""
    told = {"Host": "here", "Connection": "close"} | ({"Content-Length": str(len(body))} if body and length else {})
    lines = [
        f"{method} {target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in (told | dict(headers or {})).items()),
    ]
    return exchange(port, "\r\n".join([*lines, "", ""]).encode() + body, method)


def part(disposition: str, content: bytes) -> bytes:
    """A part of MULTIPART."""
    return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def as_file(content: bytes) -> bytes:
    """A call in MULTIPART with a picture, as clients of OpenAI send one."""
    file = part('name="input_reference"; filename="upload"', content)
    return part('name="prompt"', b"a paper boat") + file + b"--b--\r\n"


def send_picture(port: int, content: bytes, *, as_url: bool) -> Answer:
    """Ask for a video of a picture, which is in a data URL or a file."""
    url = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
    named = json.dumps({"prompt": "a paper boat", "input_reference": {"image_url": url}}).encode()
    content_type, body = (JSON, named) if as_url else (MULTIPART, as_file(content))
    return request(port, "POST", "/v1/videos", {"Content-Type": content_type}, body)


def check(answer: Answer, *allowed: int, method: str = "GET", about: object = "") -> None:
    """No answer is a failure of the server's, and each that is an error has its envelope and its request's id."""
    assert answer.headers.get("x-request-id"), (about, answer)
    assert answer.status < 500 or answer.status in allowed, (about, answer)
    assert answer.seconds < PATIENCE_SECONDS, about
    if answer.status >= 400 and method != "HEAD":
        assert answer.error, about


def memory_bytes(pid: int, field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


@contextmanager
def unharmed(server: Served) -> Iterator[None]:
    """What happens in the block leaves the same process and the same workers, no traceback, and hardly more memory."""
    pid, log_bytes = server.process.pid, len(server.log)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew: peaks of other tests do not count
    before_bytes = memory_bytes(pid, "VmRSS")
    restarts = [replica["restarts"] for replica in server.http.get("/health").json()["replicas"]]
    yield
    assert server.process.poll() is None, server.log
    health = server.http.get("/health").json()
    assert [replica["restarts"] for replica in health["replicas"]] == restarts
    assert server.http.get("/readyz").status_code == 200
    assert memory_bytes(pid, "VmHWM") - before_bytes < MOST_GROWTH_BYTES
    said = server.log[log_bytes:]
    assert "Traceback" not in said and '"level": "error"' not in said, said
    for line in said.splitlines():
        assert line.isascii() and line.isprintable(), line  # libtiff writes lines of its own; nobody else may
        assert not line.startswith("{") or json.loads(line)
