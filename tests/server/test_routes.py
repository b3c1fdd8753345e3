"""What the client of OpenAI cannot send: raw requests to every route, and what is below HTTP."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from PIL import Image
from starlette.routing import Route

import ringlight
from ringlight.server.api.parts import NO_BATCH_IDS, NO_IDS
from ringlight.server.api.routes import batches, content, videos
from tests.core.pictures import encoded
from tests.engine.processes import wait_until
from tests.server.served import LONG, NAMES, NOBODY, SMALL, Served, error_of

pytestmark = pytest.mark.slow  # a real server, or several processes


@pytest.mark.parametrize("kind", ["json", "data", "files"])
def test_create_in_every_encoding(served: Served, kind: str) -> None:
    texts = {name: str(value) for name, value in SMALL.items()}
    sent: dict[str, dict[str, Any]] = {
        "json": {"json": SMALL},
        "data": {"data": texts},
        "files": {"files": {name: (None, text) for name, text in texts.items()}},
    }
    answer = served.http.post("/v1/videos", **sent[kind])
    assert answer.status_code == 200, answer.text
    video = served.wait(answer.json()["id"])
    assert [video[name] for name in SMALL] == list(SMALL.values())


def test_every_word_that_stands_in_the_place_of_an_id_is_known() -> None:
    routers = (videos.router, content.router, batches.router)
    paths = {route.path for router in routers for route in router.routes if isinstance(route, Route)}
    words = {parts[3] for path in paths if len(parts := path.split("/")) > 3}
    assert words - {"{video_id}", "{batch_id}"} == {*NO_IDS, *NO_BATCH_IDS}


def test_what_is_not_as_asked_is_told_at_every_time(served: Served) -> None:
    """In every answer of a video and in its report; of a video that is over it comes from the database."""
    picture = {"input_reference": ("photo.png", encoded(Image.new("RGB", (40, 120))))}
    asked = {name: str(value) for name, value in SMALL.items()} | {"prompt": "a paper boat sails " * 200}
    answer = served.http.post("/v1/videos", data=asked, files=picture)
    assert answer.status_code == 200, answer.text
    (cropped,) = answer.json()["warnings"]
    assert (cropped["code"], cropped["given"], cropped["used"]) == ("picture_cropped", "40x120", "40x40")
    video = served.wait(answer.json()["id"])
    (same, truncated) = video["warnings"]
    assert same == cropped
    assert (truncated["code"], truncated["param"], truncated["used"]) == ("prompt_truncated", "prompt", "512")
    assert served.http.get("/v1/videos?limit=1").json()["data"][0]["warnings"] == video["warnings"]
    assert served.http.get(f"/v1/videos/{video['id']}/report").json()["warnings"] == video["warnings"]
    remix = served.http.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "short"}).json()
    assert remix["warnings"] == [cropped]
    extension = served.http.post(
        "/v1/videos/extensions", json={"prompt": "short", "video": video["id"], "num_frames": 5}
    )
    assert extension.json()["warnings"] == []
    answer = served.http.post("/v1/videos/sync", data=asked, files=picture)
    assert answer.headers["x-warnings"] == "picture_cropped, prompt_truncated"
    for made in (remix, extension.json()):
        served.wait(made["id"])


def test_equal_requests_make_equal_files(served: Served, finished: dict[str, Any]) -> None:
    again = served.completed()
    assert again["id"] != finished["id"]
    first, second = (served.http.get(f"/v1/videos/{video['id']}/content").content for video in (finished, again))
    assert first == second


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/videos/", 404, "not_found"),
        ("PUT", "/v1/videos", 405, "method_not_allowed"),
        ("POST", f"/v1/videos/{NOBODY}", 405, "method_not_allowed"),
        ("GET", "/v1/videos?limit=0", 400, "invalid_request"),
        ("GET", "/v1/videos?limit=many", 400, "invalid_request"),
        ("GET", "/v1/videos?order=up", 400, "invalid_request"),
        ("GET", f"/v1/videos?after={NOBODY}", 404, "not_found"),
        ("GET", f"/v1/videos/{NOBODY}/content?variant=gif", 400, "invalid_request"),
        ("GET", f"/v1/videos/{NOBODY}/report?format=xml", 400, "invalid_request"),
        ("POST", "/v1/videos/edits", 501, "unsupported"),
        ("POST", "/v1/videos/characters", 501, "unsupported"),
        ("GET", "/v1/videos/characters/char_1", 501, "unsupported"),
        *(("DELETE", f"/v1/videos/{word}", 405, "method_not_allowed") for word in NO_IDS),
        *(("GET", f"/v1/videos/{word}", 405, "method_not_allowed") for word in NO_IDS),
        *(("POST", f"/v1/videos/{word}/remix", 405, "method_not_allowed") for word in NO_IDS),
    ],
)
def test_what_is_refused_is_refused_in_the_envelope(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    answer = served.http.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/videos", "GET, POST"),
        (f"/v1/videos/{NOBODY}", "DELETE, GET"),
        (f"/v1/videos/{NOBODY}/content", "GET, HEAD"),
        ("/v1/videos/sync", "POST"),
        ("/v1/videos/characters", "POST"),
        ("/v1/videos/characters/remix", "GET"),
    ],
)
def test_which_methods_a_path_takes(served: Served, path: str, methods: str) -> None:
    answer = served.http.put(path)
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == methods


def test_the_head_of_content(served: Served, finished: dict[str, Any]) -> None:
    path = f"/v1/videos/{finished['id']}/content"
    whole, head = served.http.get(path), served.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges", "last-modified", "content-disposition"):
        assert head.headers[name] == whole.headers[name]
    assert int(head.headers["content-length"]) == len(whole.content)
    assert (
        f'filename="a-paper-boat-{finished["id"].removeprefix("video_")[:8]}.mp4"'
        in head.headers["content-disposition"]
    )
    part = served.http.get(path, headers={"Range": "bytes=10-19", "If-Range": head.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    beyond = served.http.get(path, headers={"Range": f"bytes={len(whole.content)}-"})
    assert (beyond.status_code, error_of(beyond)["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    assert served.http.get(path, headers={"If-None-Match": head.headers["etag"]}).status_code == 304


def test_content_and_report_too_early(served: Served, long: dict[str, Any]) -> None:
    for tail in ("content", "content?variant=thumbnail", "report"):
        answer = served.http.get(f"/v1/videos/{long['id']}/{tail}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "video_not_ready")


def test_the_report(served: Served, finished: dict[str, Any]) -> None:
    report = served.http.get(f"/v1/videos/{finished['id']}/report").json()
    assert report["total_seconds"] == finished["inference_time_s"]
    assert report["workload"]["prompt"] == SMALL["prompt"]
    assert [stage["name"] for stage in report["stages"]] == [stage["name"] for stage in finished["stages"]]
    table = served.http.get(f"/v1/videos/{finished['id']}/report?format=table")
    assert table.headers["content-type"].startswith("text/plain")
    assert "| Denoising |" in table.text


def test_cancelling_what_is_over_changes_nothing(served: Served, finished: dict[str, Any]) -> None:
    answer = served.http.post(f"/v1/videos/{finished['id']}/cancel")
    assert (answer.status_code, answer.json()) == (200, finished)


def test_cancelling_what_waits(served: Served, long: dict[str, Any]) -> None:
    waiting = served.create(**LONG)
    assert waiting["queue_position"] >= 1 or served.get(waiting["id"])["queue_position"] >= 1
    cancelled = served.http.post(f"/v1/videos/{waiting['id']}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")


def test_progress_never_falls(served: Served) -> None:
    video, seen = served.create(**SMALL | {"num_inference_steps": 100}), [0]
    while (now := served.get(video["id"]))["status"] in ("queued", "in_progress"):
        seen.append(now["progress"])
        assert now["progress"] < 100
    assert now["progress"] == 100
    assert seen == sorted(seen)


def test_progress_does_not_fall_when_cancelled(served: Served, long: dict[str, Any]) -> None:
    wait_until(lambda: served.get(long["id"])["progress"] >= 3)
    before = served.get(long["id"])["progress"]
    assert served.http.post(f"/v1/videos/{long['id']}/cancel").json()["progress"] >= before


# The server itself


def test_each_name_of_the_model_may_be_asked_for(served: Served) -> None:
    made = [served.create(model=name) for name in NAMES]
    assert [video["model"] for video in made] == [NAMES[0], NAMES[0]]
    for video in made:
        served.http.delete(f"/v1/videos/{video['id']}")


def test_what_the_server_says_of_itself(served: Served) -> None:
    model, second = served.http.get("/v1/models").json()["data"]
    assert (model["id"], second) == (NAMES[0], model | {"id": NAMES[1]})
    assert served.http.get(f"/v1/models/{NAMES[1]}").json() == second
    assert model["defaults"]["num_inference_steps"] > 0
    assert model["limits"]["max_frames"] > 0
    assert (model["width_multiple"], model["height_multiple"], model["frame_multiple"]) == (32, 32, 4)
    assert model["takes_picture"]
    assert served.http.get(f"/v1/models/{model['id']}").json() == model
    assert served.http.get("/livez").json() == {"status": "alive"}
    assert served.http.get("/readyz").json() == {"status": "ready", "message": None}
    health = served.http.get("/health").json()
    assert health["status"] == "ready"
    assert [replica["status"] for replica in health["replicas"]] in (["ready"], ["busy"])
    version = served.http.get("/version").json()
    assert version.pop("device")
    assert version.pop("layout_reason") == "u1r1: one rank has nothing to split"
    assert version == {"version": ringlight.__version__, "model": model["id"], "layout": "u1r1"}


def test_metrics_count_what_happens(served: Served, finished: dict[str, Any]) -> None:
    text = served.http.get("/metrics").text
    assert 'ringlight_jobs_finished_total{code="",status="completed"}' in text
    assert 'ringlight_requests_total{method="GET",route="/v1/videos/{video_id}",status="200"}' in text
    assert 'ringlight_worker_up{replica="replica-0"} 1.0' in text
    assert "ringlight_store_bytes" in text
    served.http.post("/v1/videos", json={"prompt": ""})
    served.http.get("/nothing")
    text = served.http.get("/metrics").text
    assert 'ringlight_rejected_total{code="invalid_request"}' in text
    assert 'ringlight_rejected_total{code="not_found"}' in text
    assert 'route="other"' in text


def test_the_description_names_every_route(served: Served) -> None:
    described = served.http.get("/openapi.json").json()
    expected = {
        "/v1/videos": {"get", "post"},
        "/v1/videos/{video_id}": {"get", "delete"},
        "/v1/videos/{video_id}/content": {"get"},
        "/v1/videos/{video_id}/link": {"post"},
        "/v1/videos/{video_id}/report": {"get"},
        "/v1/videos/{video_id}/events": {"get"},
        "/v1/videos/{video_id}/cancel": {"post"},
        "/v1/videos/{video_id}/remix": {"post"},
        "/v1/videos/extensions": {"post"},
        "/v1/videos/edits": {"post"},
        "/v1/videos/characters": {"post"},
        "/v1/videos/characters/{character_id}": {"get"},
        "/v1/videos/sync": {"post"},
        "/v1/batches": {"get", "post"},
        "/v1/batches/check": {"post"},
        "/v1/batches/{batch_id}": {"get", "delete"},
        "/v1/batches/{batch_id}/cancel": {"post"},
        "/v1/models": {"get"},
        "/v1/models/{model}": {"get"},
        "/livez": {"get"},
        "/readyz": {"get"},
        "/health": {"get"},
        "/version": {"get"},
        "/metrics": {"get"},
    }
    assert {path: set(methods) for path, methods in described["paths"].items()} == expected
    create = described["paths"]["/v1/videos"]["post"]
    assert set(create["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
    }
    assert create["responses"]["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorEnvelope")
    text = json.dumps(described)
    assert "HTTPValidationError" not in text
    named = set(described["components"]["schemas"])
    assert {"CreateVideo", "RemixVideo", "ExtendVideo", "Video", "VideoList", "ErrorEnvelope"} <= named
    references = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert references <= named
    video = described["components"]["schemas"]["Video"]
    assert set(video["required"]) == set(video["properties"])


def test_the_documentation_needs_nothing_from_elsewhere(served: Served) -> None:
    page = served.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in served.http.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert "num_inference_steps" in page.text


def test_the_page_and_its_parts(served: Served) -> None:
    page = served.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert served.http.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    for path in ("/page/nothing.js", "/page/", "/page/..%2fapp.py", "/page/%2e%2e", "/page/a%00.js"):
        answer = served.http.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


# Below HTTP


def test_what_is_no_http_is_400_in_the_envelope(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "invalid_body"


def test_a_head_without_end_is_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * 200_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
