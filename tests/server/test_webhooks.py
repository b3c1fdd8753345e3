"""Webhooks: signed as the standard says, tried again, bounded, and never sent where they must not go.

Their outbox is one in memory here; test_outbox.py has those that outlive a server.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from ringlight.core.errors import InvalidSetting, StoreError
from ringlight.core.settings import ServeSettings
from ringlight.server.safety import webhooks as module
from ringlight.server.safety.outbound import Outbound
from ringlight.server.safety.webhooks import Outcome, WebhookDelivery, Webhooks, read_secret, sign

SECRET = bytes(range(32))
WHSEC = "whsec_" + base64.b64encode(SECRET).decode()
VIDEO = {"id": "video_1", "object": "video", "status": "completed", "prompt": "ein Kätzchen"}
SOON = (0.01,) * 4
LATER = (3600.0,) * 4


class Receiver(ThreadingHTTPServer):
    """Answers with `statuses` in turn, the last one for ever, after `gate` is open; keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: Sequence[int] = (200,)
        self.gate = threading.Event()
        self.gate.set()
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived: Queue[str] = Queue()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.host}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
        status = self.server.statuses[min(len(self.server.got), len(self.server.statuses)) - 1]
        self.server.arrived.put(self.path)
        self.server.gate.wait(60)
        self.send_response(status)
        self.send_header("content-length", "0")
        if status == 302:
            self.send_header("location", self.server.url("/elsewhere"))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        yield receiver
        receiver.gate.set()
        receiver.shutdown()
        thread.join()


class Mailbox:
    """An outbox in memory, which fails while it is not `open`."""

    def __init__(self, tells_operator: bool) -> None:
        self._tells_operator = tells_operator
        self.open = True
        self.waiting: dict[WebhookDelivery, None] = {}
        self.events: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def add(self, url: str | None, event: str, data: Mapping[str, Any]) -> None:
        event_id, video_id, now = f"evt_{uuid.uuid4().hex}", f"video_{uuid.uuid4().hex}", time.time()
        self.events[video_id] = (event, data)
        for target in ([url] if url else []) + ([None] if self._tells_operator else []):
            self.waiting[WebhookDelivery(event_id, video_id, target, now)] = None

    def settle(self, over: Collection[WebhookDelivery], limit: int) -> Sequence[WebhookDelivery]:
        self._ask()
        for each in over:
            self.waiting.pop(each, None)
        return list(self.waiting)[:limit]

    def event(self, video_id: str) -> tuple[str, Mapping[str, Any]] | None:
        self._ask()
        return self.events.get(video_id)

    def _ask(self) -> None:
        if not self.open:
            raise StoreError("the database is locked")


class Sending:
    """Webhooks with an outbox of their own."""

    def __init__(self, webhooks: Webhooks, outbox: Mailbox) -> None:
        self.webhooks, self.outbox, self.close = webhooks, outbox, webhooks.close
        webhooks.start(outbox)

    def send(self, url: str | None, event: str, data: Mapping[str, Any]) -> None:
        self.outbox.add(url, event, data)
        self.webhooks.wake()


class Sender:
    """Makes webhooks whose outcomes can be waited for. Requests may name this machine, which in earnest is refused."""

    def __init__(self) -> None:
        self.outcomes: Queue[Outcome] = Queue()
        self.open: list[Sending] = []

    def __call__(
        self, url: str = "", hosts: tuple[str, ...] = (), retry_seconds: Sequence[float] = SOON, private: bool = True
    ) -> Sending:
        settings = ServeSettings(webhook_url=url, webhook_host=hosts)
        outbound = Outbound(hosts, 10, 0, purpose="webhook_url", param="webhook_url", allow_private=private)
        webhooks = Webhooks(settings, SECRET, outbound, count=self.outcomes.put, retry_seconds=retry_seconds)
        made = Sending(webhooks, Mailbox(tells_operator=bool(url)))
        self.open.append(made)
        return made

    def wait(self, number: int = 1) -> list[Outcome]:
        found = [self.outcomes.get(timeout=30) for _ in range(number)]
        with pytest.raises(Empty):
            self.outcomes.get_nowait()
        return found


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    for each in sender.open:
        each.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "webhooks"]


def unwrap(got: tuple[str, dict[str, str], bytes], secret: str = WHSEC) -> dict[str, Any]:
    """What a message says, once OpenAI's own client has taken its signature for good."""
    _, headers, body = got
    OpenAI(api_key="none").webhooks.verify_signature(body, headers, secret=secret)
    content: dict[str, Any] = json.loads(body)
    return content


def test_a_signature_is_that_of_the_standards_own_example() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_an_event_arrives_signed(receiver: Receiver, sender: Sender) -> None:
    sender(receiver.url()).send(None, "video.completed", VIDEO)
    assert sender.wait() == ["delivered"]
    (got,) = receiver.got
    content = unwrap(got)
    assert content["type"] == "video.completed"
    assert content["data"] == VIDEO
    assert content["timestamp"].endswith("Z") and content["object"] == "event"
    assert got[1]["webhook-id"] == content["id"]
    assert got[1]["content-type"] == "application/json"


def test_another_secret_or_body_is_noticed(receiver: Receiver, sender: Sender) -> None:
    sender(receiver.url()).send(None, "video.failed", VIDEO)
    sender.wait()
    path, headers, body = receiver.got[0]
    with pytest.raises(InvalidWebhookSignatureError):
        unwrap((path, headers, body), "whsec_" + base64.b64encode(bytes(32)).decode())
    with pytest.raises(InvalidWebhookSignatureError):
        unwrap((path, headers, body.replace(b"failed", b"passed")))


def test_the_operator_and_the_request_hear_the_same(receiver: Receiver, sender: Sender) -> None:
    webhooks = sender(receiver.url("/operator"), (receiver.host,))
    webhooks.send(receiver.url("/request"), "video.completed", VIDEO)
    assert sender.wait(2) == ["delivered", "delivered"]
    one, other = sorted(receiver.got)
    assert (one[0], other[0]) == ("/operator", "/request")
    assert unwrap(one) == unwrap(other)
    assert other[1]["host"] == receiver.host


def test_without_a_secret_all_is_kept_for_a_server_that_has_one(sender: Sender) -> None:
    webhooks = Sending(Webhooks.from_settings(ServeSettings(), sender.outcomes.put), Mailbox(tells_operator=True))
    webhooks.send(None, "video.completed", VIDEO)
    webhooks.close()
    assert sender.outcomes.empty() and len(webhooks.outbox.waiting) == 1


@pytest.mark.parametrize("path", ["/operator", "/request"])
def test_what_fails_is_tried_again_with_the_same_id(receiver: Receiver, sender: Sender, path: str) -> None:
    receiver.statuses = (500, 429, 404, 204)
    webhooks = sender(receiver.url("/operator") if path == "/operator" else "", (receiver.host,))
    webhooks.send(receiver.url("/request") if path == "/request" else None, "video.completed", VIDEO)
    assert sender.wait() == ["delivered"]
    assert [got[0] for got in receiver.got] == [path] * 4
    assert len({unwrap(got)["id"] for got in receiver.got}) == 1


def test_after_all_tries_it_is_given_up(receiver: Receiver, sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    receiver.statuses = (503,)
    with caplog.at_level(logging.DEBUG, "ringlight"):
        sender(receiver.url("/hook?token=secret")).send(None, "video.completed", VIDEO)
        assert sender.wait() == ["failed"]
    assert len(receiver.got) == 5
    assert f"to {receiver.host} is given up: answered 503" in caplog.text
    assert "secret" not in caplog.text


def test_a_receiver_that_is_gone_is_not_asked_again(receiver: Receiver, sender: Sender) -> None:
    receiver.statuses = (410,)
    sender(receiver.url()).send(None, "video.completed", VIDEO)
    assert sender.wait() == ["failed"]
    assert len(receiver.got) == 1


def test_redirects_are_not_followed(receiver: Receiver, sender: Sender) -> None:
    receiver.statuses = (302,)
    webhooks = sender(receiver.url(), (receiver.host,), retry_seconds=())
    webhooks.send(receiver.url(), "video.completed", VIDEO)
    assert sender.wait(2) == ["failed", "failed"]
    assert [got[0] for got in receiver.got] == ["/hook", "/hook"]


def test_where_nobody_listens_it_fails_after_its_tries(sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as nobody:
        url, host = nobody.url(), nobody.host
    webhooks = sender(url, (host,), retry_seconds=SOON[:1])
    webhooks.send(url, "video.completed", VIDEO)
    assert sender.wait(2) == ["failed", "failed"]
    given_up = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert [message.count("ConnectError") for message in given_up] == [1, 1]


def test_a_request_reaches_no_private_address(
    receiver: Receiver, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where its host is allowed, such as a name that has such an address only by now."""
    port = receiver.server_address[1]
    webhooks = sender("", (receiver.host, f"localhost:{port}"), private=False)
    with caplog.at_level(logging.INFO, "ringlight"):
        webhooks.send(receiver.url(), "video.completed", VIDEO)
        webhooks.send(f"http://localhost:{port}/", "video.completed", VIDEO)
        assert sender.wait(2) == ["failed", "failed"]
    assert receiver.got == []
    assert caplog.text.count("not public") == 2 and "tried again" not in caplog.text


def test_one_that_waits_holds_no_other_up(receiver: Receiver, sender: Sender) -> None:
    receiver.statuses = (500, 200)
    webhooks = sender(receiver.url(), retry_seconds=LATER)
    webhooks.send(None, "video.failed", VIDEO)
    receiver.arrived.get(timeout=30)
    webhooks.send(None, "video.completed", VIDEO)
    assert sender.wait() == ["delivered"]
    webhooks.close()
    (kept,) = webhooks.outbox.waiting
    assert sender.outcomes.empty() and webhooks.outbox.events[kept.video_id][0] == "video.failed"


def test_no_more_are_taken_up_than_may(receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    receiver.gate.clear()
    webhooks = sender(receiver.url())
    for _ in range(5):
        webhooks.send(None, "video.completed", VIDEO)
    for _ in range(3):
        receiver.arrived.get(timeout=30)
    with pytest.raises(Empty):
        receiver.arrived.get(timeout=0.2)
    receiver.gate.set()
    assert sender.wait(5) == ["delivered"] * 5
    assert len({unwrap(got)["id"] for got in receiver.got}) == 5


def test_no_more_are_sent_at_once_than_may(receiver: Receiver, sender: Sender) -> None:
    receiver.gate.clear()
    webhooks = sender(receiver.url())
    for _ in range(2 * module.MAX_AT_ONCE):
        webhooks.send(None, "video.completed", VIDEO)
    for _ in range(module.MAX_AT_ONCE):
        receiver.arrived.get(timeout=30)
    with pytest.raises(Empty):
        receiver.arrived.get(timeout=0.2)
    receiver.gate.set()
    assert sender.wait(2 * module.MAX_AT_ONCE) == ["delivered"] * 2 * module.MAX_AT_ONCE


def test_closing_lets_a_try_end(receiver: Receiver, sender: Sender) -> None:
    receiver.gate.clear()
    webhooks = sender(receiver.url(), retry_seconds=LATER)
    webhooks.send(None, "video.completed", VIDEO)
    receiver.arrived.get(timeout=30)
    opener = threading.Timer(0.1, receiver.gate.set)
    opener.start()
    webhooks.close(timeout_seconds=30)
    opener.join()
    assert sender.wait() == ["delivered"]


def test_closing_does_not_wait_for_a_receiver_that_hangs(receiver: Receiver, sender: Sender) -> None:
    receiver.gate.clear()
    webhooks = sender(receiver.url(), retry_seconds=LATER)
    webhooks.send(None, "video.completed", VIDEO)
    receiver.arrived.get(timeout=30)
    webhooks.close(timeout_seconds=0.1)
    assert sender.outcomes.empty() and len(webhooks.outbox.waiting) == 1


def test_after_closing_events_are_kept(receiver: Receiver, sender: Sender) -> None:
    webhooks = sender(receiver.url())
    webhooks.close()
    webhooks.close()
    webhooks.send(None, "video.completed", VIDEO)
    assert sender.outcomes.empty() and len(webhooks.outbox.waiting) == 1
    assert receiver.got == []


@pytest.mark.slow
def test_events_come_from_any_thread(receiver: Receiver, sender: Sender) -> None:
    webhooks = sender(receiver.url())
    threads = [threading.Thread(target=webhooks.send, args=(None, "video.completed", VIDEO)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sender.wait(20) == ["delivered"] * 20
    assert len({unwrap(got)["id"] for got in receiver.got}) == 20


@pytest.mark.parametrize(
    "settings", [ServeSettings(webhook_url="https://example.com/"), ServeSettings(webhook_host=("example.com",))]
)
def test_nothing_is_sent_without_a_secret(settings: ServeSettings) -> None:
    with pytest.raises(InvalidSetting, match="--webhook-secret-file"):
        Webhooks.from_settings(settings)


def test_the_secret_comes_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{WHSEC}\n")
    assert read_secret(path) == SECRET
    settings = ServeSettings(webhook_url="https://example.com/", webhook_secret_file=str(path))
    Webhooks.from_settings(settings).close()


@pytest.mark.parametrize(
    "content",
    [
        "",
        WHSEC.removeprefix("whsec_"),
        "whsec_",
        "whsec_not base64",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_é",
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    with pytest.raises(InvalidSetting, match="--webhook-secret-file") as refused:
        read_secret(path)
    assert content.removeprefix("whsec_") in ("", "not base64") or content[6:] not in str(refused.value)


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        read_secret(tmp_path / "none")


@pytest.mark.parametrize("url", ["example.com/hook", "ftp://example.com", "http://", "http://[", "https://me:pw@host/"])
def test_an_operators_url_that_is_none_is_refused(sender: Sender, url: str) -> None:
    with pytest.raises(InvalidSetting, match="--webhook-url"):
        sender(url)
