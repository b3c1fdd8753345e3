"""What a request carries is read whole, or refused with 4xx: nothing else, and never for much memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from ringlight.server.http import body, http_error
from ringlight.server.http.body import Body, read_body
from ringlight.server.http.http_error import HttpError
from tests.server.serving import serving

MIB = 2**20
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"


def read(content_type: str | None, content: bytes, chunk_bytes: int = 65536, path: str = "/v1/videos") -> Body:
    """The body as it is read when it comes in chunks; they are made as they are asked for."""
    offset, sent_end = 0, False

    async def receive() -> dict[str, Any]:
        nonlocal offset, sent_end
        chunk = content[offset : offset + chunk_bytes]
        offset += chunk_bytes
        return {"type": "http.request", "body": chunk, "more_body": offset < len(content)}

    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    return asyncio.run(read_body(Request(scope, receive)))


def refused(content_type: str | None, content: bytes, chunk_bytes: int = 65536) -> HttpError:
    with pytest.raises(HttpError) as caught:
        read(content_type, content, chunk_bytes)
    assert 400 <= caught.value.status < 500
    json.dumps(caught.value.body(), ensure_ascii=False).encode()  # can be sent
    assert len(caught.value.message) < 1000
    return caught.value


def multipart(parts: Sequence[tuple[str, bytes]], boundary: str = "b", end: bytes = b"--") -> bytes:
    """Parts as (what follows `form-data`, content)."""
    dashes = b"--" + boundary.encode()
    written = [
        dashes + b"\r\nContent-Disposition: form-data" + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"
        for disposition, content in parts
    ]
    return b"".join(written) + dashes + end + b"\r\n"


def fields(pairs: Mapping[str, str]) -> bytes:
    return multipart([(f'; name="{name}"', value.encode()) for name, value in pairs.items()])


def test_json() -> None:
    sent = {"prompt": "ein Vogel \u2764 \U0001f426", "seed": 7, "fps": 24.5, "x": None, "list": [1, {"a": True}]}
    assert read(JSON, json.dumps(sent).encode()).fields == sent
    assert read("Application/JSON; charset=utf-8", json.dumps(sent).encode(), chunk_bytes=1).fields == sent
    assert read("application/merge-patch+json", b"{}").fields == {}


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'"prompt"',
        b"null",
        b"{",
        b'{"prompt": "x"',
        b'{"prompt": "x',
        b'{"prompt": "x"} {}',
        b"{'prompt': 'x'}",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"\\ud800": 1, "\\ud800": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": ["\\udc00\\ud800"]}',
        b'{"\\ud800": 1}',
        b'{"extra_body": {"\\ud800": 1}, "\\ud800": 2}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"[" * 9 + b"]" * 9 + b"}",
        b'{"a": [' + b"0," * 300 + b"0]}",
        json.dumps({f"k{i}": i for i in range(10_000)}).encode(),
        b'{"extra_body": "[1"}',
        b'{"extra_body": [1]}',
        b'{"extra_body": "{\\"a\\": \\"\\\\ud800\\"}"}',
        b'{"extra_body": {"seed": 1}, "seed": 2}',
    ],
)
def test_what_is_not_our_json(content: bytes) -> None:
    assert refused(JSON, content).code == "invalid_body"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 20_000_000,
        b'{"a":' * 4_000_000,
        b"[" + b"[]," * 7_000_000,
        b'{"a": "' + b'\\"' * 10_000_000,
        b'"' * 20_000_001,
    ],
    ids=["deep", "deep objects", "many", "an endless string", "many strings"],
)
def test_a_bomb_of_json_stays_small(content: bytes) -> None:
    tracemalloc.start()
    try:
        refused(JSON, content, chunk_bytes=MIB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2.5 * len(content)


def test_form() -> None:
    found = read(FORM, b"prompt=a+b%C3%A9&input_reference%5Bimage_url%5D=data%3A&extra[k][]=1&extra[k][]=2&empty=")
    assert found.fields == {
        "prompt": "a bé",
        "input_reference": {"image_url": "data:"},
        "extra": {"k": ["1", "2"]},
        "empty": "",
    }


@pytest.mark.parametrize(
    ("form", "objects"),
    [
        ("a[][b]=1&a[][c]=2&a[][b]=3&a[][c]=4", [{"b": "1", "c": "2"}, {"b": "3", "c": "4"}]),  # object by object
        ("a[][b]=1&a[][b]=3&a[][c]=2&a[][c]=4", [{"b": "1", "c": "2"}, {"b": "3", "c": "4"}]),  # name by name
        ("a[][b]=1&a[][c]=2&a[][b]=3", [{"b": "1", "c": "2"}, {"b": "3"}]),
        ("a[][c]=1&a[][b]=2&a[][b]=3&a[][c]=4&a[][b]=5", [{"c": "1", "b": "2"}, {"b": "3", "c": "4"}, {"b": "5"}]),
        ("a[][b]=1&a[][b]=2", [{"b": "1"}, {"b": "2"}]),
        ("a[][b]=1&a[][c]=2", [{"b": "1", "c": "2"}]),
        ("a[][b][c]=1&a[][b][d]=2&a[][b][c]=3", [{"b": {"c": "1", "d": "2"}}, {"b": {"c": "3"}}]),
        ("a[][b][]=1", [{"b": ["1"]}]),
    ],
)
def test_objects_of_a_list_have_what_is_theirs(form: str, objects: list[Any]) -> None:
    assert read(FORM, form.encode()).fields == {"a": objects}


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "x"}',
        b"a=%ff",
        b"a=%00",
        b"a=1&a=2",
        b"a=1&a[b]=2",
        b"a[b]=1&a=2",
        b"a[]=1&a[b]=2",
        b"a[b]=1&a[]=2",
        b"a[][b]=1&a[]=2",
        b"a[][b]=1&a=2",
        b"a[][b]=1&a[][b]=2&a[][c]=3",  # whose is it?
        b"a[][b]=1&a[][b][c]=2",
        b"a" + b"[b]" * 8 + b"=1",
        "&".join(f"k{i}=1" for i in range(10_000)).encode(),
    ],
)
def test_what_is_not_our_form(content: bytes) -> None:
    assert refused(FORM, content).code == "invalid_body"


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("lora[0]", "lora[]"),
        ("lora[1][name]", "lora[][name]"),
        ("extra_body[sigmas][12]", "extra_body[sigmas][]"),
    ],
)
def test_a_list_is_written_without_numbers(name: str, right: str) -> None:
    kind, content = "multipart/form-data; boundary=b", multipart([(f'; name="{name}"', b"1")])
    for error in (refused(FORM, f"{name}=1".encode()), refused(kind, content)):
        assert error.code == "invalid_body"
        assert str(error) == f"{name}: a list is written without numbers, {right} for each in its order"


def test_names_that_only_look_nested_are_names() -> None:
    assert read(FORM, b"a[=1&b]=2&[c]=3&d[e]f=4").fields == {"a[": "1", "b]": "2", "[c]": "3", "d[e]f": "4"}


def test_a_form_is_small() -> None:
    assert refused(FORM, b"a=" + b"%41" * 400_000).status == 413


@pytest.mark.parametrize("chunk_bytes", [1, 7, 65536])
def test_multipart(chunk_bytes: int) -> None:
    content = multipart(
        [
            ('; name="prompt"', "zwei\r\n--Zeilen é".encode()),
            ('; name="input_reference"; filename="upload"\r\nContent-Type: application/octet-stream', PNG),
            ('; name="other"; filename="x"', b"not kept"),
            ('; name="nothing"; filename=""\r\nContent-Type: application/octet-stream', b""),
            ('; name="extra[k][]"', b"1"),
        ]
    )
    found = read(MULTIPART, b"preamble\r\n" * 0 + content + b"epilogue", chunk_bytes)
    assert found.fields == {"prompt": "zwei\r\n--Zeilen é", "extra": {"k": ["1"]}}
    assert found.files == {"input_reference": PNG, "other": b""}


def test_a_picture_without_a_file_name_is_one() -> None:
    assert read(MULTIPART, multipart([('; name="input_reference"', PNG)])).files == {"input_reference": PNG}
    assert read(MULTIPART, multipart([('; name="input_reference"', b"data:x")])).fields == {"input_reference": "data:x"}


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("multipart/form-data", fields({"prompt": "x"})),
        ("multipart/form-data; boundary=", fields({"prompt": "x"})),
        ("multipart/form-data; boundary=other", fields({"prompt": "x"})),
        ("multipart/form-data; boundary=" + "b" * 300, fields({"prompt": "x"})),
        (MULTIPART, b""),
        (MULTIPART, b"\r\n\r\n"),
        (MULTIPART, b"prompt=x"),
        (MULTIPART, fields({"prompt": "x"})[:-6]),
        (MULTIPART, fields({"prompt": "x"})[:20]),
        (MULTIPART, multipart([('; name="prompt"', b"x")], end=b"")),
        (MULTIPART, multipart([("", b"x")])),
        (MULTIPART, multipart([('; name=""', b"x")])),
        (MULTIPART, multipart([(f'; name="{"n" * 300}"', b"x")])),
        (MULTIPART, multipart([('; name="prompt"\r\nX: ' + "y" * 9000, b"x")])),
        (MULTIPART, multipart([('; name="prompt"' + "\r\nX: y" * 20, b"x")])),
        (MULTIPART, b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\nbad header\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, multipart([('; name="prompt"', b"\xff")])),
        (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--b--\r\n'),
        (MULTIPART, multipart([('; name="prompt"', b"a\0b")])),
        (MULTIPART, multipart([('; name="prompt"', b"x")] * 2)),
        (MULTIPART, multipart([('; name="input_reference"; filename="a"', PNG)] * 2)),
        (MULTIPART, multipart([('; name="a"; filename="a"', PNG), ('; name="a"', b"x")])),
        (MULTIPART, multipart([(f'; name="k{i}"', b"x") for i in range(10_000)])),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [3, 65536])
def test_what_is_not_our_multipart(content_type: str, content: bytes, chunk_bytes: int) -> None:
    assert refused(content_type, content, chunk_bytes).code == "invalid_body"


def test_other_kinds() -> None:
    assert read(None, b"").fields == {}
    assert refused(None, b"{}").code == "unsupported_media_type"
    assert refused("text/plain", b"{}").status == 415
    assert refused("application/octet-stream", PNG).status == 415


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "multipart", "json"])
def test_memory_of_the_largest_picture(kind: str) -> None:
    """What it takes beside the content that the client sends, which the test itself holds."""
    num_bytes = 64 * MIB
    if kind == "file":
        content_type, content = MULTIPART, multipart([('; name="input_reference"; filename="a"', b"x" * num_bytes)])
    else:
        url = b"data:image/png;base64," + b"QUJD" * (58 * MIB // 3)
        content_type, content = (JSON, b'{"input_reference": {"image_url": "%s"}}' % url)
        if kind == "multipart":
            content_type, content = MULTIPART, multipart([('; name="input_reference[image_url]"', url)])
    tracemalloc.start()
    try:
        found = read(content_type, content, chunk_bytes=MIB)
        held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.files or found.fields
    assert held_bytes < 1.2 * len(content)
    assert peak_bytes < 2.3 * len(content)


def test_the_hash_is_over_what_is_meant() -> None:
    first = [('; name="prompt"', b"x"), ('; name="input_reference"; filename="a"', PNG), ('; name="seed"', b"1")]
    same = read("multipart/form-data; boundary=other", multipart(first[::-1], "other")).sha256
    assert read(MULTIPART, multipart(first)).sha256 == same
    others = [
        read(MULTIPART, multipart([*first[:1], ('; name="input_reference"; filename="a"', PNG + b"x"), first[2]])),
        read(MULTIPART, multipart([('; name="prompt"', b"y"), *first[1:]])),
        read(MULTIPART, multipart(first[:2])),
        read(MULTIPART, multipart([*first[:1], ('; name="unknown"; filename="a"', PNG), first[2]])),
        read(MULTIPART, multipart(first), path="/v1/videos/video_1/remix"),
        read(JSON, b'{"a": "b", "c": "d"}'),
        read(JSON, b'{"a": ["b", "c", "d"]}'),
        read(JSON, b'{"a": ["b", "c"], "d": null}'),
        read(JSON, b'{"a": "1"}'),
        read(JSON, b'{"a": 1}'),
        read(JSON, b'{"a": 11}'),
        read(JSON, b'{"a": true}'),
    ]
    hashes = [same, *(other.sha256 for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert read(JSON, b'{"a": 1, "b": 2}').sha256 == read(JSON, b'{ "b":2, "a":1 }').sha256
    assert read(JSON, b'{"extra_body": {"a": 1}}').sha256 == read(JSON, b'{"a": 1}').sha256


def test_extra_fields_are_fields() -> None:
    assert read(JSON, b'{"prompt": "x", "extra_body": {"seed": 1, "extra": 2}, "extra_params": {"fps": 8}}').fields == {
        "prompt": "x",
        "seed": 1,
        "extra": 2,
        "fps": 8,
    }
    assert read(JSON, b'{"extra_body": null, "extra_params": ""}').fields == {}
    assert read(MULTIPART, fields({"extra_body[seed]": "1"})).fields == {"seed": "1"}
    assert read(MULTIPART, fields({"extra_params": '{"seed": 1}'})).fields == {"seed": 1}


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """A server that answers a Video whose prompt is what it read."""
    app = FastAPI()
    http_error.install(app)

    @app.post("/v1/{rest:path}")
    async def answer(request: Request) -> dict[str, Any]:
        found = await read_body(request)
        return {"id": "video_1", "prompt": json.dumps([found.fields, {k: len(v) for k, v in found.files.items()}])}

    with serving(app) as address:
        yield address


def test_what_the_openai_client_sends(echo: str, tmp_path: Any) -> None:
    picture = tmp_path / "bird.png"
    picture.write_bytes(PNG)
    client = OpenAI(base_url=f"{echo}/v1", api_key="x", max_retries=0)
    calls: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        ({"seconds": "4", "size": "1280x704"}, [{"prompt": "p", "seconds": "4", "size": "1280x704"}, {}]),
        ({"input_reference": PNG}, [{"prompt": "p"}, {"input_reference": len(PNG)}]),
        ({"input_reference": picture}, [{"prompt": "p"}, {"input_reference": len(PNG)}]),
        (
            {"extra_body": {"input_reference": {"image_url": "data:x"}}},
            [{"prompt": "p", "input_reference": {"image_url": "data:x"}}, {}],
        ),
        (
            {"extra_body": {"seed": 3, "guidance_scale": 1.5, "flag": True, "list": ["a", "b"], "none": None}},
            [
                {
                    "prompt": "p",
                    "seed": "3",
                    "guidance_scale": "1.5",
                    "flag": "true",
                    "list": ["a", "b"],
                },
                {},
            ],
        ),
    ]
    for arguments, expected in calls:
        assert json.loads(client.videos.create(prompt="p", **arguments).prompt or "") == expected
    assert json.loads(client.videos.remix("video_0", prompt="p").prompt or "") == [{"prompt": "p"}, {}]


@pytest.mark.slow
def test_a_refused_body_leaves_the_connection_usable(echo: str) -> None:
    with httpx.Client(base_url=echo) as client:
        for _ in range(3):
            content = multipart([(f'; name="k{i}"', b"x" * 4000) for i in range(10_000)])
            refusal = client.post("/v1/videos", content=content, headers={"content-type": MULTIPART})
            assert refusal.json()["error"]["code"] == "invalid_body"
        assert client.post("/v1/videos", json={"prompt": "x"}).status_code == 200


def test_a_client_that_leaves_or_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", JSON.encode())]}

    async def leaves() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def stalls() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(body, "CHUNK_SECONDS", 0.05)
    for receive, code in ((leaves, "invalid_body"), (stalls, "request_timeout")):
        with pytest.raises(HttpError) as caught:
            asyncio.run(read_body(Request(scope, receive)))
        assert caught.value.code == code


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([JSON, FORM, MULTIPART, 'multipart/form-data; boundary="b"; charset=x', "multipart/form-data"]),
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                [b"--b", b"\r\n", b"--", b'Content-Disposition: form-data; name="a"', b'; filename="f"', b": ", b"x"],
            )
            | st.sampled_from(
                [b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b",", b":", b"1e999", b"a[b]=", b"&", b"%", b"\0"],
            ),
            max_size=40,
        ).map(b"".join),
    ),
    st.integers(1, 50),
)
def test_nothing_else_is_raised(content_type: str, content: bytes, chunk_bytes: int) -> None:
    answer: Any
    try:
        answer = read(content_type, content, chunk_bytes).fields
    except HttpError as error:
        answer = error.body()
    json.dumps(answer, ensure_ascii=False).encode()
