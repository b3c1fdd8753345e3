"""The server calls nobody that it should not: the matrix of ways to make it, against a real server on loopback."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from ringlight.core.errors import InvalidSetting
from ringlight.server.http.http_error import HttpError
from ringlight.server.safety.outbound import Outbound, resolve_host

PICTURE = bytes(range(256)) * 100
PUBLIC = "93.184.216.34"

# Addresses that nobody outside may make the server connect to, by kind.
NOT_PUBLIC = """
127.0.0.1 127.8.8.8 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1
2001::1 2001:2::1 2001:10::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 4000::1 5f00::1
fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if "to" in query:
            self.answer(302, b"", {"location": query["to"]})
        elif url.path == "/slow":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while True:
                try:
                    self.wfile.write(b"1\r\nx\r\n")
                    time.sleep(0.02)
                except OSError:
                    return
        elif url.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                self.close_connection = True
        elif url.path == "/zip":
            self.answer(200, b"not really", {"content-encoding": "gzip"})
        elif url.path == "/status":
            self.answer(int(query["is"]), PICTURE, {})
        else:
            self.answer(200, PICTURE, {})

    do_POST = do_GET  # noqa: N815 (http.server looks for it)

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class Site:
    """A server on loopback, and what it was asked."""

    def __init__(self, port: int, seen: list[tuple[str, str, dict[str, str], bytes]]) -> None:
        self.port, self.seen = port, seen


@contextmanager
def hosting(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    seen: list[tuple[str, str, dict[str, str], bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Recording", (Handler,), {"seen": seen}))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Site(server.server_address[1], seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def site() -> Iterator[Site]:
    with hosting() as site:
        yield site


def names(**addresses: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    """A resolver that knows these names (a_test is a.test)."""
    known = {name.replace("_", "."): found for name, found in addresses.items()}

    def resolve(host: str, port: int) -> Sequence[str]:
        if host not in known:
            raise OSError(f"{host} is not known")
        return known[host]

    return resolve


def outbound(*hosts: str, timeout_seconds: float = 5.0, max_bytes: int = 10**6, **arguments: object) -> Outbound:
    return Outbound(hosts, timeout_seconds, max_bytes, **arguments)  # type: ignore[arg-type]


def get(to: Outbound, url: str) -> bytes:
    return asyncio.run(to.get(url))


def refusal(to: Outbound, url: str) -> HttpError:
    with pytest.raises(HttpError) as caught:
        get(to, url)
    assert (caught.value.status, caught.value.param) == (400, "input_reference")
    return caught.value


def test_a_picture_comes_from_the_address_that_was_checked(site: Site) -> None:
    to = outbound(f"pictures.test:{site.port}", resolve=names(pictures_test=["127.0.0.1"]), allow_private=True)
    assert get(to, f"http://pictures.test:{site.port}/a/b.png?x=1#part") == PICTURE
    assert get(to, f"HTTP://PICTURES.test.:{site.port}/again") == PICTURE
    method, path, headers, _ = site.seen[0]
    assert (method, path) == ("GET", "/a/b.png?x=1")
    assert headers["host"] == f"pictures.test:{site.port}"
    assert headers["accept-encoding"] == "identity"
    assert not headers.keys() & {"cookie", "authorization", "referer"}


def test_the_second_address_is_tried(site: Site) -> None:
    resolve = names(pictures_test=["127.0.0.9", "127.0.0.1"])  # nobody listens at the first
    assert get(
        outbound("*:" + str(site.port), resolve=resolve, allow_private=True), f"http://pictures.test:{site.port}/"
    )


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    """By name, beside a public one, and written in the URL."""
    for found in ([address], [PUBLIC, address], [address, PUBLIC]):
        to = outbound("*", resolve=names(evil_test=found))
        assert refusal(to, "http://evil.test/").code == "image_url_refused"
    host = f"[{address}]" if ":" in address else address
    assert refusal(outbound("*"), f"http://{host}/").code == "image_url_refused"


def test_public_addresses_are_let_through() -> None:
    resolve = names(good_test=[PUBLIC, "2606:4700:4700::1111", "2a00:1450:4001::1", "1.1.1.1", "8.8.8.8"])
    asyncio.run(outbound("*", resolve=resolve).check("https://good.test/x"))


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "1", "0", "0x", "08"),
        *("127.0.0.1.", "2130706433.", "0x7F000001", "[::ffff:7f00:1]", "[fe80::1%25lo]", "[fe80::1%lo]", "localhost"),
        *("①②⑦.⓪.⓪.①", "１２７.0.0.1", "127。0。0。1", "%31%32%37.0.0.1", "127.0.0.1%00.good.test", "[::1", ""),
    ],
)
def test_other_ways_to_write_this_machine(site: Site, host: str) -> None:
    """With every host allowed, and the resolver of the system."""
    for port in ("", f":{site.port}"):
        to = outbound("*", f"*:{site.port}")
        assert refusal(to, f"http://{host}{port}/").code in ("image_url_refused", "image_url_failed")
    assert site.seen == []


@pytest.mark.parametrize(
    "url",
    [
        *("", "http", "http:", "http://", "//good.test/", "good.test/x", "ftp://good.test/", "file:///etc/passwd"),
        *(
            "gopher://good.test/",
            "data:image/png;base64,AA==",
            "javascript:1",
            "http://user@good.test/",
            "http://u:p@good.test/",
        ),
        *("http://good.test:22/", "http://good.test:0/", "http://good.test:99999/", "http://good.test:x/"),
        *("http://good.test@evil.test/", "http://evil.test#@good.test/", "http://evil.test\\@good.test/"),
        *("http://good.test\n.evil.test/", "http://evilgood.test/", "http://good.test.evil.test/", "http://evil.test/"),
        *(
            "http://" + "a" * 70 + ".test/",
            "http://xn--a.test/",
            "http://good.test/" + "a" * 5000,
            "http://\ud800.test/",
        ),
    ],
)
def test_urls_that_are_not_allowed(url: str) -> None:
    assert refusal(outbound("good.test", resolve=resolve_everything), url).code == "image_url_refused"


def resolve_everything(host: str, port: int) -> list[str]:
    return [PUBLIC]


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("good.test", ["http://good.test", "https://GOOD.test:443"], ["http://a.good.test", "https://good.test:8443"]),
        ("good.test", ["http://good.test:80", "https://good.test"], ["http://good.test:443", "https://good.test:80"]),
        ("GOOD.test:8443", ["https://good.test:8443"], ["https://good.test", "http://good.test"]),
        ("*.good.test", ["http://a.good.test", "http://a.b.good.test"], ["http://good.test", "http://agood.test"]),
        ("*", ["http://any.test", "https://any.test"], ["http://any.test:8080"]),
        ("*.good.test:81", ["http://a.good.test:81"], ["http://a.good.test"]),
        (PUBLIC, [f"http://{PUBLIC}"], ["http://good.test"]),
        ("[2606:4700::1]:8080", ["http://[2606:4700::1]:8080"], ["http://[2606:4700::1]"]),
        ("bücher.test", [], ["http://xn--bcher-kva.test"]),
        ("xn--bcher-kva.test", ["http://bücher.test", "http://xn--bcher-kva.test"], []),
    ],
)
def test_rules(rule: str, allowed: list[str], refused: list[str]) -> None:
    to = outbound(rule, resolve=resolve_everything)
    for url in allowed:
        asyncio.run(to.check(url))
    for url in refused:
        assert refusal(to, url).code == "image_url_refused"


@pytest.mark.parametrize(
    "host", ["134744072", "0x08080808", "010.8.8.8", "8.8.2056", "8.8", "8.8.8.0x8", "[::8.8.8.8%1]"]
)
def test_numbers_are_written_as_addresses_or_not_at_all(host: str) -> None:
    """Public ones too: what a resolver makes of them differs from one system to another."""
    assert refusal(outbound("*", resolve=resolve_everything), f"http://{host}/").code == "image_url_refused"


def test_no_rule_allows_nothing() -> None:
    assert refusal(outbound(resolve=resolve_everything), "http://good.test/").code == "image_url_refused"


@pytest.mark.parametrize(
    "rule", ["", "http://good.test", "good.test/path", "u@good.test", "good.test:0", "good.test:70000", "a b"]
)
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(InvalidSetting):
        outbound(rule)


def test_redirects_are_checked_as_the_first(site: Site) -> None:
    """Each hop from an allowed host to what is not: another host, another scheme, this machine by number."""
    own = f"http://good.test:{site.port}"
    resolve = names(good_test=["127.0.0.1"], evil_test=["127.0.0.1"])
    to = outbound(f"good.test:{site.port}", resolve=resolve, allow_private=True)
    assert get(to, f"{own}/?to=/picture") == PICTURE
    assert get(to, f"{own}/?to={own}/?to=/picture") == PICTURE
    for target in (
        f"http://evil.test:{site.port}/",
        f"http://127.0.0.1:{site.port}/",
        "http://good.test:1/",
        "file:///etc/passwd",
    ):
        site.seen.clear()
        assert refusal(to, f"{own}/?to={target}").code == "image_url_refused"
        assert len(site.seen) == 1
    for bad in ("http://[", "http://good.test:x/"):
        assert refusal(to, f"{own}/?to={bad}").code == "image_url_refused"


def test_a_redirect_to_a_private_address(site: Site) -> None:
    """Both hosts are allowed, but the second one's address is a private one."""

    def resolve(host: str, port: int) -> list[str]:
        to._allow_private = host == "good.test"  # which takes the part of a public one
        return ["127.0.0.1"]

    to = outbound(f"*:{site.port}", resolve=resolve)
    assert refusal(to, f"http://good.test:{site.port}/?to=http://inner.test:{site.port}/").code == "image_url_refused"
    assert len(site.seen) == 1


def test_redirects_end(site: Site) -> None:
    own = f"http://good.test:{site.port}"
    to = outbound(f"good.test:{site.port}", resolve=names(good_test=["127.0.0.1"]), allow_private=True)
    chain = f"{own}/picture"
    for step in range(6):
        chain = f"{own}/{step}?to={quote(chain)}"
        if step == 2:
            assert get(to, chain) == PICTURE
            site.seen.clear()
    error = refusal(to, chain)
    assert error.code == "image_url_failed"
    assert "more than 3 redirects" in error.message
    assert len(site.seen) == 4


def test_rebinding(site: Site) -> None:
    """A name that is public when it is looked at and this machine when it is asked again: it is not asked again."""
    looked_up: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) > 1 else ["192.0.2.1"]

    to = outbound(f"rebind.test:{site.port}", resolve=resolve, allow_private=True, timeout_seconds=0.3)
    assert refusal(to, f"http://rebind.test:{site.port}/").code == "image_url_failed"
    assert (looked_up, site.seen) == (["rebind.test"], [])


def test_size_and_time_are_bounded(site: Site) -> None:
    resolve = names(good_test=["127.0.0.1"])
    own = f"http://good.test:{site.port}"
    to = outbound(
        f"good.test:{site.port}", resolve=resolve, allow_private=True, max_bytes=len(PICTURE), timeout_seconds=3
    )
    assert get(to, own) == PICTURE
    assert "over the limit" in refusal(to, f"{own}/endless").message
    smaller = outbound(f"good.test:{site.port}", resolve=resolve, allow_private=True, max_bytes=len(PICTURE) - 1)
    assert refusal(smaller, own).code == "image_url_failed"
    hasty = outbound(f"good.test:{site.port}", resolve=resolve, allow_private=True, timeout_seconds=0.3)
    assert "took more than 0.3 s" in refusal(hasty, f"{own}/slow").message

    def sleepy(host: str, port: int) -> list[str]:
        time.sleep(1)
        return ["127.0.0.1"]

    slow_names = outbound(f"good.test:{site.port}", resolve=sleepy, allow_private=True, timeout_seconds=0.1)
    assert "took more than 0.1 s" in refusal(slow_names, own).message


def test_answers_that_are_no_picture(site: Site) -> None:
    own = f"http://good.test:{site.port}"
    to = outbound(f"good.test:{site.port}", "gone.test", resolve=names(good_test=["127.0.0.1"]), allow_private=True)
    for path in ("/zip", "/status?is=404", "/status?is=500", "/status?is=204"):
        assert refusal(to, own + path).code == "image_url_failed"
    assert refusal(to, "http://gone.test/").code == "image_url_failed"


def test_nobody_listens(site: Site) -> None:
    to = outbound("*:1", resolve=names(good_test=["127.0.0.1"]), allow_private=True)
    assert refusal(to, "http://good.test:1/").code == "image_url_failed"


def test_proxies_of_the_environment_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    to = outbound(f"good.test:{site.port}", resolve=names(good_test=["127.0.0.1"]), allow_private=True)
    assert get(to, f"http://good.test:{site.port}/") == PICTURE


def test_a_webhook_is_posted_and_redirects_are_not_followed(site: Site) -> None:
    resolve = names(good_test=["127.0.0.1"])
    to = outbound(
        f"good.test:{site.port}", resolve=resolve, allow_private=True, purpose="webhook_url", param="webhook_url"
    )
    own = f"http://good.test:{site.port}"
    assert asyncio.run(to.post(f"{own}/hook", b'{"a": 1}', {"webhook-id": "evt_1", "host": "evil.test"})) == 200
    method, path, headers, body = site.seen.pop()
    assert (method, path, body, headers["webhook-id"]) == ("POST", "/hook", b'{"a": 1}', "evt_1")
    assert headers["host"] == f"good.test:{site.port}"
    assert asyncio.run(to.post(f"{own}/?to=http://evil.test/", b"", {})) == 302
    with pytest.raises(HttpError) as caught:
        asyncio.run(outbound("good.test", purpose="webhook_url", param="webhook_url").post("http://10.0.0.1/", b"", {}))
    assert (caught.value.code, caught.value.param) == ("webhook_url_refused", "webhook_url")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_with_the_name_and_not_with_the_address(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-keyout", key, "-out", certificate, "-subj", "/CN=good.test"),
            *("-addext", "subjectAltName=DNS:good.test"),
        ],
        check=True,
        capture_output=True,
    )
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    ours.sni_callback = lambda connection, name, context: asked.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    resolve = names(good_test=["127.0.0.1"], other_test=["127.0.0.1"])
    with hosting(ours) as site:
        to = outbound(f"*:{site.port}", resolve=resolve, allow_private=True, tls=trusting)
        assert get(to, f"https://good.test:{site.port}/") == PICTURE
        assert asked == ["good.test"]
        assert "CERTIFICATE" in refusal(to, f"https://other.test:{site.port}/").message.upper()
        strict = outbound(f"*:{site.port}", resolve=resolve, allow_private=True)
        assert "CERTIFICATE" in refusal(strict, f"https://good.test:{site.port}/").message.upper()


def test_the_system_resolver_names_all_addresses_once() -> None:
    found = resolve_host("localhost", 80)
    assert "127.0.0.1" in found or "::1" in found
    assert len(set(found)) == len(found)
