"""A real S3 on loopback (moto's), in a process of its own, and a way to it that can be cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self
from uuid import uuid4
from xml.etree import ElementTree

import httpx

from tests.engine.processes import wait_until
from tests.forking import fork
from tests.server.served import free_port

OPERATOR = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def in_child(work: Callable[[], None], **environment: str) -> None:
    """Do something with obstore in a process of its own, in the operator's environment and this one: a process that
    has used obstore cannot be forked any more."""
    child = fork(work, os.environ | OPERATOR | environment, ())
    assert child.wait(60) == 0


class Buckets:
    """The store. It is asked without obstore, whose threads a process that is forked does not have."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        said = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False, headers={"authorization": said})

    def new(self) -> str:
        """A bucket that nobody uses."""
        name = f"b{uuid4().hex[:12]}"
        assert self.http.put(f"/{name}").is_success
        return name

    def keys(self, bucket: str) -> list[str]:
        """All that lies in a bucket."""
        answer = self.http.get(f"/{bucket}", params={"list-type": "2"})
        assert answer.is_success, answer.text
        return sorted(str(each.text) for each in ElementTree.fromstring(answer.content).iter(f"{NAMESPACE}Key"))

    def get(self, bucket: str, key: str) -> httpx.Response:
        """An object."""
        answer = self.http.get(f"/{bucket}/{key}")
        assert answer.is_success, answer.text
        return answer

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Have an object."""
        assert self.http.put(f"/{bucket}/{key}", content=content).is_success


@contextmanager
def buckets() -> Iterator[Buckets]:
    """A store that ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = Buckets(port)

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return found.http.get("/moto-api/data.json").is_success
            assert process.poll() is None, "moto did not start"
            return False

        wait_until(answers)
        yield found
        found.http.close()
    finally:
        process.kill()
        process.wait()


class Way:
    """A port that leads to another one, as long as it is open. Connections that are there when it is cut are lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.num_connections = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a server needs to go this way."""
        return OPERATOR | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def open(self) -> None:
        """Let connections through."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Let none through; whoever comes is refused."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            for each in self._connections:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self.num_connections += 1
                self._connections |= {client, server}
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(2**16):
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
