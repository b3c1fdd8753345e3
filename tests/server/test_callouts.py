"""What a request can make a server call: with every host allowed, still no address that is not public."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.commands import TIMEOUT_SECONDS, finished
from tests.forking import Forked, fork, leave_networks
from tests.server.hostile import OPTIONS, SMALL_VIDEOS, check, request, unharmed
from tests.server.served import Served, free_port, serve
from tests.server.test_outbound import NOT_PUBLIC

pytestmark = pytest.mark.slow  # a real server, or several processes


ROOT = Path(__file__).parents[2]

OTHER_FORMS = """
2130706433 0x7f000001 0x7f.1 017700000001 0177.0.0.1 0177.0.0.01 127.1 127.0.1 0x7f.0.0.1 127.0.0.1. 2130706433. 0 0x0 1
0xa9fea9fe 2852039166 0251.0376.0251.0376 169.254.43518 [::ffff:7f00:1] [::ffff:127.0.0.1] [0:0:0:0:0:ffff:7f00:1]
[::7f00:1] [::1] [::] [fe80::1%25lo] [fe80::1%lo] [::1%25lo] [64:ff9b::7f00:1] [2002:7f00:1::] localhost LOCALHOST
localhost. ip6-localhost localhost.localdomain ①②⑦.⓪.⓪.① １２７.0.0.1 127。0。0。1
%31%32%37.0.0.1 127.0.0.1%00.good.test
"""


class Seen(ThreadingHTTPServer):
    """Counts who comes to a port of this machine."""

    paths: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Seen

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 (http.server looks for it)


@pytest.fixture(scope="module")
def secret() -> Iterator[Seen]:
    """A service that only this machine may reach."""
    with Seen(("", free_port()), Handler) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tiny: Path, secret: Seen, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that may call every host, at the usual ports and at the secret one."""
    port = secret.server_address[1]
    allowed = [("--image-host", "*", "--webhook-host", "*")]
    allowed += [("--image-host", f"*:{port}", "--webhook-host", f"*:{port}")]
    options = [*signing(tmp_path_factory.mktemp("signing")), *(option for pair in allowed for option in pair)]
    with (
        serve(tmp_path_factory.mktemp("calling"), tiny, *OPTIONS, *options, **SMALL_VIDEOS) as server,
        unharmed(server),
    ):
        yield server


def signing(folder: Path) -> list[object]:
    """The option that webhooks need."""
    (folder / "secret").write_text("whsec_" + "c2VjcmV0" * 4)
    return ["--webhook-secret-file", folder / "secret"]


def fields(url: str) -> list[dict[str, Any]]:
    """All ways to name an address."""
    return [{"input_reference": {"image_url": url}}, {"input_reference": url}, {"webhook_url": url}]


@pytest.mark.parametrize("host", [f"[{a}]" if ":" in a else a for a in NOT_PUBLIC.split()] + OTHER_FORMS.split())
def test_no_way_to_write_an_address_that_is_not_public(server: Served, secret: Seen, host: str) -> None:
    port = secret.server_address[1]
    urls = f"http://{host}:{port}/", f"http://{host}/", f"https://{host}/x.png", f"http://good.test@{host}:{port}/"
    for number, url in enumerate(urls):
        picture, same_picture, webhook = fields(url)
        for named in (same_picture if number % 2 else picture, webhook):
            body = json.dumps({"prompt": "x", **named}).encode()
            answer = request(server.port, "POST", "/v1/videos", {"Content-Type": "application/json"}, body)
            check(answer, about=(url, named))
            assert answer.status == 400, (url, named, answer)
            purpose = next(iter(named)).replace("input_reference", "image_url")
            assert answer.error["code"] in (f"{purpose}_refused", f"{purpose}_failed"), answer
            assert answer.error["param"] == next(iter(named))
    assert secret.paths == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_x",
            "ftp://127.0.0.1/",
            "unix:///var/run/docker.sock",
            "//x/",
        ),
        *(
            "http:/127.0.0.1/",
            "http:\\\\127.0.0.1\\",
            "http://",
            "http://:80/",
            "http://[",
            "http://a b/",
            "http://x:99999/",
        ),
        *(
            "http://127.0.0.1:22/",
            "http://good.test:25/",
            "jar:http://x!/",
            "http://x\r\nHost: y/",
            "HTTP://127.0.0.1/",
            "\ud800",
        ),
    ],
)
def test_no_other_scheme_or_port(server: Served, secret: Seen, url: str) -> None:
    for named in fields(url):
        body = json.dumps({"prompt": "x", **named}).encode()
        answer = request(server.port, "POST", "/v1/videos", {"Content-Type": "application/json"}, body)
        check(answer, about=url)
        assert answer.status == 400
    assert secret.paths == []


# An internet of one machine: a network namespace, in which public addresses lie on the loopback interface.

PUBLIC, HOSTS = (
    "93.184.216.34",
    """
127.0.0.1 localhost local.test
93.184.216.34 good.test
93.184.216.34 both.test
127.0.0.1 both.test
169.254.169.254 metadata.test
""",
)
SETUP = """
set -e
mount --make-rprivate /
mount --bind "$1" /etc/hosts
ip link set lo up
ip address add 93.184.216.34/32 dev lo
ip address add 169.254.169.254/32 dev lo
"""


@pytest.mark.slow
def test_a_public_host_cannot_send_it_on_to_a_private_one(tiny: Path, tmp_path: Path, photograph: Path) -> None:
    """Redirects, names with private addresses, and webhooks that redirect, through the system's own resolver."""
    unshare = ["unshare", "--net", "--mount"]
    is_possible = os.geteuid() == 0 and shutil.which("ip") and shutil.which("unshare")
    if not is_possible or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and may not make a network namespace")
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)

    def start(out: IO[bytes], err: IO[bytes]) -> Forked:
        def work() -> None:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            leave_networks()
            subprocess.run(["bash", "-c", SETUP, "setup", str(hosts)], check=True)
            _inside(tiny, tmp_path, photograph)

        return fork(work, os.environ, (out.fileno(), err.fileno()))

    done = finished(start, TIMEOUT_SECONDS)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    assert done.out.splitlines()[-1] == "all held"


class Site(BaseHTTPRequestHandler):
    """On every address at port 80: the photograph, redirects, and a note of who came where."""

    came: list[tuple[str, str]]
    photograph: bytes

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.came.append((self.connection.getsockname()[0], self.path))
        target = self.path.partition("?to=")[2]
        self.send_response(302 if target else 200)
        if target:
            self.send_header("location", target)
        content = b"" if target else self.photograph
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815


def _inside(checkpoint: Path, folder: Path, photograph: Path) -> None:
    """The test itself, inside of the namespace."""
    Site.came, Site.photograph = [], photograph.read_bytes()
    site = ThreadingHTTPServer(("", 80), Site)
    site.daemon_threads = True
    threading.Thread(target=site.serve_forever, daemon=True).start()
    options = ("--image-host", "*", "--webhook-host", "*", *OPTIONS, *signing(folder))
    with contextlib.closing(site.socket), serve(folder, checkpoint, *options, **SMALL_VIDEOS) as server:
        server.wait(server.create(input_reference={"image_url": "http://good.test/a.png"}, size="32x32")["id"])
        server.wait(server.create(input_reference={"image_url": "http://good.test/?to=/b.png"}, size="32x32")["id"])
        assert Site.came == [(PUBLIC, "/a.png"), (PUBLIC, "/?to=/b.png"), (PUBLIC, "/b.png")], Site.came
        Site.came.clear()
        private = ["127.0.0.1", "127.1", "0", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "localhost", "local.test"]
        private += ["both.test", "metadata.test", "169.254.169.254", "0xa9fea9fe"]
        for host in private:
            for url in (f"http://{host}/secret", f"http://good.test/?to=http://{host}/secret"):
                named = {"prompt": "x", "input_reference": {"image_url": url}}
                answer = server.http.post("/v1/videos", json=named)
                assert answer.status_code == 400, (url, answer.text)
            answer = server.http.post("/v1/videos", json={"prompt": "x", "webhook_url": f"http://{host}/secret"})
            assert answer.status_code == 400, (host, answer.text)
        hook = "http://good.test/hook?to=http://127.0.0.1/secret"
        server.wait(server.create(webhook_url=hook, size="32x32", num_frames=1)["id"])
        server.stop()  # which waits for webhooks that are on their way
    assert {address for address, _ in Site.came} == {PUBLIC}, Site.came
    assert [path for _, path in Site.came if "secret" in path and "?to=" not in path] == [], Site.came
    assert any(path.startswith("/hook") for _, path in Site.came), Site.came
    print("all held")
