"""Whatever is sent is answered in the envelope, soon, and the server takes no harm: pictures, bodies, fields, ids."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.server.damaged import Sent, damaged
from tests.server.hostile import (
    JSON,
    MAX_BODY_BYTES,
    MULTIPART,
    OPTIONS,
    SMALL_VIDEOS,
    Answer,
    as_file,
    check,
    connect,
    exchange,
    part,
    request,
    send_picture,
    unharmed,
)
from tests.server.served import NOBODY, Served, serve

pytestmark = pytest.mark.slow  # a real server, or several processes


SEED = 20_261_124

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def open_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of small videos."""
    with serve(tmp_path_factory.mktemp("open"), tiny, *OPTIONS, "--queue-size", 256, **SMALL_VIDEOS) as server:
        yield server


@pytest.fixture
def server(open_server: Served) -> Iterator[Served]:
    """The same; a test that harms it fails."""
    with unharmed(open_server):
        yield open_server


def post(server: Served, content_type: str, body: bytes, path: str = "/v1/videos", **headers: str) -> Answer:
    answer = request(server.port, "POST", path, {"Content-Type": content_type, **headers}, body)
    check(answer, about=body[:300])
    return answer


# Pictures


@pytest.fixture(scope="module")
def pictures() -> list[Sent]:
    return damaged(SEED)


def test_damaged_pictures(server: Served, pictures: list[Sent]) -> None:
    """In turn as a file and in a data URL. What is taken is made, and what is refused is named as the field at fault.

    All that are one of a kind, and every fifth of those that chance damages, in four ways in turn; `benchmarks/fuzz.py`
    sends all.
    """
    made: dict[str, Sent] = {}
    for number, sent in enumerate([*pictures[:100], *pictures[100::5]]):
        answer = send_picture(server.port, sent.content, as_url=bool(number % 2))
        check(answer, about=sent.name)
        if answer.status == 200:
            made[json.loads(answer.body)["id"]] = sent
        else:
            assert answer.status == 400, (sent.name, answer)
            assert (answer.error["code"], answer.error["param"]) == ("invalid_request", "input_reference"), sent.name
        assert sent.fate in ("taken" if answer.status == 200 else "refused", "either"), (sent.name, answer)
    assert len(made) > 20
    for video_id, sent in made.items():
        assert server.wait(video_id)["error"] is None, sent.name


def test_the_same_seed_damages_the_same(pictures: list[Sent]) -> None:
    assert damaged(SEED) == pictures
    assert damaged(SEED + 1) != pictures


# Bodies


def chunked(body: bytes, chunk_bytes: int = 65_536) -> bytes:
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


LARGE = as_file(bytes(MAX_BODY_BYTES))


@pytest.mark.parametrize(
    "path", ["/v1/videos", "/v1/videos/sync", "/v1/videos/extensions", f"/v1/videos/{NOBODY}/remix"]
)
def test_a_body_over_the_limit(server: Served, path: str) -> None:
    for content_type in (MULTIPART, JSON, FORM, "text/plain"):
        assert post(server, content_type, LARGE, path).error["code"] == "body_too_large"
    told = {"Content-Type": MULTIPART, "Transfer-Encoding": "chunked"}
    answer = request(server.port, "POST", path, told, chunked(LARGE), length=False)
    check(answer)
    assert answer.error["code"] == "body_too_large"


def test_a_body_that_is_only_announced(server: Served) -> None:
    """Nobody waits for what is too long, or for what never comes."""
    for length in (MAX_BODY_BYTES + 1, 10**18, 10**300):
        head = f"POST /v1/videos HTTP/1.1\r\nHost: here\r\nContent-Type: {JSON}\r\nContent-Length: {length}\r\n\r\n"
        answer = exchange(server.port, head.encode())
        check(answer)
        assert answer.status in (400, 413)


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: -1",
        "Content-Length: 1_0",
        "Content-Length: 0x10",
        "Content-Length: +5",
        "Content-Length: 9, 8",
        "Content-Length: 9\r\nContent-Length: 8",
        "Content-Length: \u0665",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nX: \0",
        ": nothing",
        "X" * 70_000,
        "X: " + "y" * 70_000,
        "\r\n".join(f"X{number}: y" for number in range(20_000)),
    ],
    ids=lambda text: text[:40].encode("unicode_escape").decode(),
)
def test_heads_that_lie(server: Served, framing: str) -> None:
    """A proxy in front might read them otherwise, so none is guessed at."""
    head = f"POST /v1/videos HTTP/1.1\r\nHost: here\r\nContent-Type: {JSON}\r\n{framing}\r\n\r\n"
    answer = exchange(server.port, head.encode() + b"5\r\n{}   \r\n0\r\n\r\n")
    check(answer, 501)
    assert answer.status in (400, 413, 431, 501)


@pytest.mark.parametrize("more", ["", "Sec-Fetch-Site: cross-site\r\n", "Authorization: Bearer wrong\r\n"])
def test_both_framings_end_the_connection(server: Served, more: str) -> None:
    """What would be a second request to one that goes by the length is not taken for one, whoever else refuses it."""
    smuggled = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
    head = f"POST /v1/videos HTTP/1.1\r\nHost: here\r\nContent-Type: {JSON}\r\n{more}"
    framing = f"Content-Length: {5 + len(smuggled)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with connect(server.port) as connection:
        connection.sendall((head + framing).encode() + smuggled)
        answered = b""
        with contextlib.suppress(ConnectionResetError):
            while received := connection.recv(10_000):
                answered += received
    assert answered.startswith(b"HTTP/1.1 400 ") and b'"code":"invalid_body"' in answered
    assert answered.count(b"HTTP/1.1") == 1, answered


FIELDS = [f"f{number}" for number in range(10_000)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, json.dumps({"prompt": "x"} | dict.fromkeys(FIELDS, 1)).encode()),
        (FORM, "&".join(f"{name}=1" for name in FIELDS).encode()),
        (FORM, b"&" * 900_000),
        (FORM, "&".join(f"a[{name}]=1" for name in FIELDS).encode()),
        (FORM, b"a" + b"[]" * 400_000 + b"=1"),
        (MULTIPART, b"".join(part(f'name="{name}"', b"1") for name in FIELDS) + b"--b--\r\n"),
        (MULTIPART, b"".join(part(f'name="{name}"; filename="x"', b"") for name in FIELDS) + b"--b--\r\n"),
        (
            MULTIPART,
            part('name="prompt"', b"x").replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 100_000 + b"\r\n") + b"--b--\r\n",
        ),
        (MULTIPART, part(f'name="{"n" * 900_000}"', b"x") + b"--b--\r\n"),
        (JSON, b'{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
        (JSON, b'{"a":' * 150_000 + b"1" + b"}" * 150_000),
        (JSON, b'{"prompt": "x", "seed": ' + b"9" * 900_000 + b"}"),
        (JSON, b'{"prompt": "x", "seed": 1' + b"0" * 4000 + b"}"),
        (JSON, b'{"prompt": "x", "fps": 0.' + b"0" * 900_000 + b"1}"),
        (JSON, b'{"prompt": "x", "extra_body": "' + b'{\\"extra_body\\": ' * 20_000 + b'"}'),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:20],
)
def test_ten_thousand_fields_and_other_masses(server: Served, content_type: str, body: bytes) -> None:
    assert len(body) < MAX_BODY_BYTES
    assert post(server, content_type, body).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b--",
        b"--b\r\n",
        b"--b\r\n\r\n\r\n--b--\r\n",
        b"--c\r\nContent-Disposition: form-data; name=prompt\r\n\r\nx\r\n--c--\r\n",
        part('name="prompt"', b"x"),
        part('name="prompt"', b"x") + b"--b-",
        part('name="prompt"; filename="\0"', b"x") + b"--b--\r\n",
        part('name="prompt', b"x") + b"--b--\r\n",
        part('name="prompt\xff"', b"x") + b"--b--\r\n",
        part('name="input_reference"; filename="../../../etc/passwd"', b"x") + b"--b--\r\n",
        part('filename="x"', b"x") + b"--b--\r\n",
        part('name="prompt"', b"\xff\xfe") + b"--b--\r\n",
        part('name="prompt"', b"a") + part('name="prompt"', b"b") + b"--b--\r\n",
        part('name="input_reference"; filename="a"', b"a") * 2 + b"--b--\r\n",
        b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Disposition form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\nContent-Disposition: form-data; name=prompt\n\nx\n--b--\n",
        as_file(b"")[:-9],
    ],
)
def test_broken_multipart(server: Served, body: bytes) -> None:
    assert post(server, MULTIPART, body).status == 400


@pytest.mark.parametrize(
    "content_type",
    [
        *("", ";", "/", "json", "text/plain", "application/xml", "application/octet-stream", "image/png", "\x7f", "é"),
        *("application/json, multipart/form-data", "multipart/mixed; boundary=b", "multipart/form-data"),
        *(
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "b" * 5000,
            "multipart/form-data; boundary=é",
        ),
        *(
            "application/json; charset=utf-16",
            "application/json; charset=\x01",
            'application/json; charset="',
            "a" * 9000,
        ),
    ],
)
def test_wrong_content_types(server: Served, content_type: str) -> None:
    for body in (b'{"prompt": "x"', as_file(b"x")[:50], b""):
        for path in ("/v1/videos", "/v1/videos/sync", "/v1/videos/extensions", f"/v1/videos/{NOBODY}/remix"):
            assert post(server, content_type, body, path).status in (400, 404, 415)


def test_a_compressed_body_is_not_unpacked(server: Served) -> None:
    for coding in ("gzip", "deflate", "br", "zstd", "x" * 100):
        body = gzip.compress(b'{"prompt": "x"}')
        answer = post(server, JSON, body, **{"Content-Encoding": coding})
        assert answer.status in (400, 415)


# Fields

NASTY = [
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\x1b[31m\r\nSet-Cookie: a=b",
    "\u202e\ufeff\U0010ffff",
    "é" * 100_000,
    "../../../etc/passwd",
    "file:///etc/passwd",
    "{{7*7}}${7*7}%(x)s%n{0.__class__}",
    "'; DROP TABLE jobs; --",
    "-1",
    "0",
    "1e308",
    "-1e400",
    "NaN",
    "Infinity",
    "0x10",
    "1_000",
    "\u0661",
    "9" * 400,
    "1." + "0" * 5000,
    " ",
    "",
    0,
    -1,
    -0.0,
    5e-324,
    1e308,
    -1e308,
    1.5,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    True,
    None,
    [],
    [[]],
    {},
    {"id": {}},
    {"image_url": "\0"},
    {"image_url": 1},
    {"image_url": "data:;base64," + "A" * 10_001},
    {"image_url": "data:image/png;base64,!!!!"},
    {"image_url": "data:" + ";a" * 5000 + ",x"},
    {"file_id": "file-1"},
    {"": ""},
]


FEW = 5  # one of so many


def fields_of(server: Served, name: str) -> list[str]:
    schemas = server.http.get("/openapi.json").json()["components"]["schemas"]
    return list(schemas[name]["properties"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("CreateVideo", "/v1/videos"),
        ("ExtendVideo", "/v1/videos/extensions"),
        ("RemixVideo", f"/v1/videos/{NOBODY}/remix"),
    ],
)
def test_every_field_with_every_nasty_value(server: Served, call: str, path: str) -> None:
    """In JSON, and half of what is text in a form. Fields that nobody has, and those that a video has too when it is
    followed by another, have a few of the values each, other ones in turn: they are read as a video's are."""
    right = {"prompt": "x"} | ({"video": NOBODY} if call == "ExtendVideo" else {})
    fields = fields_of(server, call)
    own = {*fields, "extra_body"} if call == "CreateVideo" else set(fields) - set(fields_of(server, "CreateVideo"))
    names = [*fields, "unknown", "\ud800", "\0", "__proto__", "extra_body", "output_path", "n" * 50_000]
    pairs = [
        (name, value)
        for position, name in enumerate(names)
        for value in (NASTY if name in own else NASTY[position % FEW :: FEW])
    ]
    for number, (name, value) in enumerate(pairs):
        asked = right | {name: value}
        content_type, body = JSON, json.dumps(asked)
        if isinstance(value, str) and (number + len(name)) % 2:  # another half for each field
            content_type, body = FORM, urlencode(asked, errors="surrogatepass")
        answer = post(server, content_type, body.encode(), path)
        assert answer.status in (200, 400, 404), (name, value, answer)
        if answer.status == 200:
            server.http.delete(f"/v1/videos/{json.loads(answer.body)['id']}").raise_for_status()


@pytest.mark.slow
def test_prompts_that_are_odd_but_right_are_made(server: Served) -> None:
    prompts = [value for value in NASTY if isinstance(value, str) and value.strip() and len(value) < 20_000]
    answers = [
        post(server, JSON, json.dumps({"prompt": prompt, "negative_prompt": prompt}).encode()) for prompt in prompts
    ]
    made = [json.loads(answer.body) for answer in answers if answer.status == 200]
    assert len(made) > 10
    for video in made:
        assert server.wait(video["id"])["prompt"] == video["prompt"]
