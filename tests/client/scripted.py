"""A real HTTP server on loopback that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """`breaks_after`: the connection is lost after so many bytes of the body."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    breaks_after: int | None = None


class Scripted:
    """What to answer, in order, by method and path without its query; the last one again and again."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, list[Answer]] = {}
        self.url = ""

    def on(self, place: str, *answers: Answer | Any) -> None:
        """`place` is such as `GET /v1/videos`; an answer that is none is one's JSON."""
        self.answers[place] = [each if isinstance(each, Answer) else Answer(each) for each in answers]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        script = self.answers.get(f"{asked.method} {asked.path.partition('?')[0]}")
        if script is None:
            return refusal(404, "not_found", "there is no such video")
        return script.pop(0) if len(script) > 1 else script[0]


def refusal(status: int, code: str, message: str, param: str | None = None, **headers: str) -> Answer:
    """An error in the server's envelope; headers by names with underscores."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer({"error": error}, status, {"x-request-id": "req_1", **named})


@contextmanager
def scripted() -> Iterator[Scripted]:
    """The server, for as long as it is needed."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Nothing: pytest shows what fails."""

        def reply(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = script.answer(Asked(self.command, self.path, headers, self.rfile.read(length)))
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"content-length": str(len(body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: answer.breaks_after])
            self.close_connection = answer.breaks_after is not None

        do_GET = do_POST = do_DELETE = reply  # noqa: N815 (the names that http.server looks for)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def video(status: str = "queued", **fields: Any) -> dict[str, Any]:
    """A video as the server sends it, with keys that this client does not know."""
    empty = dict.fromkeys(
        ("completed_at", "expires_at", "error", "stage", "step", "queue_position", "eta_seconds", "stages", "memory")
    )
    known = {"id": "video_1", "object": "video", "created_at": 1_700_000_000, "progress": 0, "model": "wan"}
    known |= {"prompt": "a cat", "size": "64x64", "seconds": "0.2", "num_frames": 5, "num_inference_steps": 4}
    return empty | known | {"status": status, "from_the_future": {"a": 1}} | fields
