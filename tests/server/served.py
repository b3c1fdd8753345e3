"""A real server in a process of its own, on a free port, with a folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import httpx
import pytest

from tests.cli.commands import RINGLIGHT
from tests.engine.processes import wait_until

READY_SECONDS = 300.0
POLL_SECONDS = 0.05  # between two questions to a server whose ranks have something to do on the same cores
SMALL: dict[str, Any] = {
    "prompt": "a paper boat",
    "size": "64x64",
    "num_frames": 5,
    "num_inference_steps": 2,
    "seed": 7,
}
"""A video of a fraction of a second."""
LONG: dict[str, Any] = SMALL | {"num_inference_steps": 1000}
"""One that is still running when somebody looks."""


NAMES = ("ringlight-demo-tiny", "Wan-AI/another-name")
"""What the model of the shared server is called."""

NOBODY = "video_" + "0" * 32
"""An id that no video has."""


def start_program(
    arguments: Iterable[object], out: IO[bytes], err: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the installed `ringlight`."""
    return subprocess.Popen([RINGLIGHT, *map(str, arguments)], stdout=out, stderr=err, env=environment)


class Served:
    """A running `ringlight serve`: a program that is started, as benchmarks time it; tests have it forked."""

    launch: ClassVar[Callable[..., subprocess.Popen[bytes]]] = staticmethod(start_program)

    def __init__(self, folder: Path, checkpoint: Path, *options: object, port: int = 0, **environment: str) -> None:
        """Start it; `wait_until_ready` waits for the workers. `folder` keeps its data and its log."""
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "log"
        arguments = ["serve", "--model-path", checkpoint, "--port", self.port, "--data-dir", folder / "data"]
        arguments += ["--num-threads", 1, "--log-format", "json", *options]
        with self.log_path.open("ab") as log:
            self.process = self.launch(arguments, log, log, os.environ | environment)
        self.http = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text(errors="replace")

    def wait_until_listening(self) -> None:
        """Return when it answers."""
        wait_until(lambda: self._answers("/livez") or self.process.poll() is not None, READY_SECONDS)
        assert self.process.poll() is None, self.log

    def wait_until_ready(self) -> None:
        """Return when it makes videos."""
        wait_until(lambda: self._answers("/readyz") or self.process.poll() is not None, READY_SECONDS, POLL_SECONDS)
        assert self.process.poll() is None, self.log

    def create(self, headers: Mapping[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for a small video, or another; what was answered."""
        answer = self.http.post("/v1/videos", json=SMALL | fields, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def get(self, video_id: str) -> dict[str, Any]:
        """A video as it is now."""
        answer = self.http.get(f"/v1/videos/{video_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, video_id: str, status: str = "completed") -> dict[str, Any]:
        """Wait until a video has a status; one that ends in another is an error."""

        def is_so() -> bool:
            found = self.get(video_id)["status"]
            assert found in (status, "queued", "in_progress"), self.get(video_id)
            return bool(found == status)

        wait_until(is_so, READY_SECONDS, POLL_SECONDS)
        return self.get(video_id)

    def completed(self, **fields: Any) -> dict[str, Any]:
        """A video that has been made."""
        return self.wait(self.create(**fields)["id"])

    def stop(self, number: signal.Signals = signal.SIGTERM, within_seconds: float = 60.0) -> int:
        """End it by a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.http.close()
        try:
            return self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def _answers(self, path: str) -> bool:
        try:
            return self.http.get(path).is_success
        except httpx.TransportError:
            return False


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The envelope, which is all of the answer."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and error["code"] and error["type"]
    return error


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(folder: Path, checkpoint: Path, *options: object, **environment: str) -> Iterator[Served]:
    """A server that is ready, and ends with the block, at once."""
    server = Served(folder, checkpoint, *options, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            server.stop(signal.SIGTERM)  # the second one does not wait for what runs


@pytest.fixture(scope="session")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that tests share: leave no videos that run, and take no other server's port. Its folder has a name with
    what means something else in URLs."""
    names = ["--served-model-name", NAMES[0], "--served-model-name", NAMES[1]]
    with serve(tmp_path_factory.mktemp("served? 100%#é"), tiny, "--drain-timeout", 0, *names) as server:
        yield server


@pytest.fixture(scope="session")
def made(served: Served) -> list[dict[str, Any]]:
    """Videos that `finished` has made."""
    return []


@pytest.fixture
def finished(served: Served, made: list[dict[str, Any]]) -> dict[str, Any]:
    """A video that tests read and leave as it is; another one where a test has deleted all."""
    if not made or served.http.get(f"/v1/videos/{made[-1]['id']}").status_code == 404:
        made.append(served.completed())
    return made[-1]


@pytest.fixture
def long(served: Served) -> Iterator[dict[str, Any]]:
    """A video that runs for longer than the test."""
    video = served.create(**LONG)
    yield video
    served.http.delete(f"/v1/videos/{video['id']}")
