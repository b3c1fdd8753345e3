"""Batches of a real server: taken in whole, made behind what others ask, and gone on with whatever dies."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.settings import MOST_PRIORITY
from tests.engine.processes import wait_until
from tests.server.served import LONG, POLL_SECONDS, SMALL, Served, error_of, serve

pytestmark = pytest.mark.slow  # a real server

ALICE, BOB = "a" * 20, "b" * 20
NO_BATCH = "batch_" + "0" * 32
NUM_REQUESTS = 12  # more than stand in the queue at a time


@pytest.fixture(scope="module")
def small_queue(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server before which one video may wait."""
    keys = ("--api-key", f"alice:{ALICE}", "--api-key", f"bob:{BOB}")
    options = ("--queue-size", 1, "--drain-timeout", 0, *keys)
    with serve(tmp_path_factory.mktemp("small_queue"), tiny, *options) as server:
        server.http.headers["authorization"] = f"Bearer {ALICE}"
        yield server


@pytest.fixture
def blocked(small_queue: Served) -> Iterator[Served]:
    """The same, making something that does not end."""
    video = small_queue.create(**LONG, priority=MOST_PRIORITY)  # nor does it make way
    small_queue.wait(video["id"], "in_progress")
    yield small_queue
    small_queue.http.delete(f"/v1/videos/{video['id']}")


def requests(number: int = NUM_REQUESTS, **fields: Any) -> list[dict[str, Any]]:
    return [SMALL | {"seed": seed} | fields for seed in range(number)]


def send(server: Served, name: str, asked: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/batches", json={"name": name, "requests": asked} | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def batch_of(server: Served, batch_id: str) -> dict[str, Any]:
    answer = server.http.get(f"/v1/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids_of(batch: dict[str, Any]) -> list[str]:
    return [request["video_id"] for request in batch["requests"]]


def test_more_than_the_queue_holds_is_taken_in_whole_and_takes_no_place_of_others(blocked: Served) -> None:
    batch = send(blocked, "whole", requests())
    assert (batch["status"], batch["completed_at"]) == ("in_progress", None)
    assert batch["request_counts"] == {"total": 12, "queued": 12} | dict.fromkeys(
        ("in_progress", "completed", "failed", "deleted"), 0
    )
    ids = ids_of(batch)
    wait_until(lambda: blocked.get(ids[7])["queue_position"] == 8)
    assert blocked.get(ids[8])["queue_position"] is None
    single = blocked.create()
    assert single["queue_position"] == 1
    first = blocked.get(ids[0])
    assert (first["priority"], first["batch_id"], first["queue_position"]) == (-5, batch["id"], 2)
    assert error_of(blocked.http.post("/v1/videos", json=SMALL))["code"] == "queue_full"
    urgent = send(blocked, "urgent", requests(1), priority=4)
    wait_until(lambda: blocked.get(ids_of(urgent)[0])["queue_position"] == 1)

    cancelled = blocked.http.post(f"/v1/batches/{batch['id']}/cancel").json()
    assert (cancelled["status"], cancelled["errors"]) == ("completed", {"cancelled": 12})
    assert cancelled["completed_at"] is not None
    for video in (single["id"], *ids_of(urgent)):
        blocked.http.post(f"/v1/videos/{video}/cancel")
    anew = send(blocked, "whole", requests(2), retry_failed=True)
    assert not set(ids_of(anew)) & set(ids) and len(batch_of(blocked, batch["id"])["requests"]) == 12
    assert blocked.http.delete(f"/v1/batches/{batch['id']}").json()["object"] == "batch.deleted"
    assert blocked.http.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert {blocked.http.get(f"/v1/videos/{video_id}").status_code for video_id in (*ids, *ids_of(anew))} == {404}


def test_the_same_again_is_made_once(blocked: Served) -> None:
    a, b, c = requests(3)
    unseeded = {name: value for name, value in a.items() if name != "seed"}
    batch = send(blocked, "again", [a, unseeded, unseeded, b])
    ids = ids_of(batch)
    assert len(set(ids)) == 4
    answer = send(blocked, "again", [c, b, unseeded, a, unseeded])
    assert answer["id"] == batch["id"]
    assert ids_of(answer)[1:] == [ids[3], ids[1], ids[0], ids[2]]
    assert ids_of(batch_of(blocked, batch["id"])) == [*ids, ids_of(answer)[0]]
    assert not set(ids_of(send(blocked, "others", [a]))) & set(ids)
    seeds = [blocked.get(video_id)["seed"] for video_id in ids]
    assert seeds[0] == 0 and seeds[1] != seeds[2]
    blocked.http.delete(f"/v1/videos/{ids[3]}")
    assert ids_of(send(blocked, "again", [b])) == [ids[3]]
    assert batch_of(blocked, batch["id"])["requests"][3]["status"] == "deleted"
    names = [each["name"] for each in blocked.http.get("/v1/batches").json()["data"]]
    assert names[:2] == ["others", "again"]
    for each in blocked.http.get("/v1/batches?limit=2").json()["data"]:
        assert each["requests"] is None
        blocked.http.delete(f"/v1/batches/{each['id']}")


def test_what_waits_outside_of_the_queue_is_cancelled_deleted_and_in_time(blocked: Served) -> None:
    late = SMALL | {"timeout_seconds": 0.3, "seed": 99}
    ids = ids_of(batch := send(blocked, "alone", [*requests(), late]))
    assert blocked.wait(ids[-1], "failed")["error"]["code"] == "deadline_exceeded"
    assert blocked.http.post(f"/v1/videos/{ids[10]}/cancel").json()["error"]["code"] == "cancelled"
    assert blocked.http.delete(f"/v1/videos/{ids[11]}").status_code == 200
    found = batch_of(blocked, batch["id"])
    assert [request["status"] for request in found["requests"]] == ["queued"] * 10 + ["failed", "deleted", "failed"]
    assert found["errors"] == {"cancelled": 1, "deadline_exceeded": 1}
    blocked.http.delete(f"/v1/batches/{batch['id']}")


def test_all_that_is_wrong_is_named_and_nothing_is_created(small_queue: Served) -> None:
    asked = [SMALL, SMALL | {"sizze": 3}, SMALL | {"size": "65x64", "fps": 0}, {"seed": 1}, SMALL | {"model": "other"}]
    answer = small_queue.http.post("/v1/batches", json={"name": "wrong", "requests": asked})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", "requests[1].sizze")
    for said in ("requests[1].sizze", "nearest: size", "requests[2].size", "requests[2].fps", "requests[3].prompt"):
        assert said in error["message"]
    assert "requests[4].model: 'other' is not served" in error["message"]
    checked = small_queue.http.post("/v1/batches/check", json={"name": "wrong", "requests": asked}).json()
    assert [(each["request"], each["param"]) for each in checked["problems"]] == [
        (1, "sizze"),
        (2, "size"),
        (2, "fps"),
        (3, "prompt"),
        (4, "model"),
    ]
    assert checked["problems"][4]["code"] == "model_not_found"
    assert "wrong" not in [each["name"] for each in small_queue.http.get("/v1/batches").json()["data"]]
    many = {"name": "wrong", "requests": [{"seed": 1}] * 50}
    assert "and 30 more" in error_of(small_queue.http.post("/v1/batches", json=many))["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"requests": [SMALL]}, "name"),
        ({"name": "", "requests": [SMALL]}, "name"),
        ({"name": "x"}, "requests"),
        ({"name": "x", "requests": []}, "requests"),
        ({"name": "x", "requests": [1]}, "requests.0"),
        ({"name": "x", "requests": [SMALL], "priority": 11}, "priority"),
        ({"name": "x", "requests": [SMALL], "more": 1}, "more"),
        ({"name": "x", "requests": [{}] * 1001}, "requests"),
    ],
)
def test_calls_that_are_none(small_queue: Served, body: dict[str, Any], param: str) -> None:
    for path in ("/v1/batches", "/v1/batches/check"):
        answer = small_queue.http.post(path, json=body)
        assert (answer.status_code, error_of(answer)["param"]) == (400, param)


def test_only_json_is_taken(small_queue: Served) -> None:
    answer = small_queue.http.post("/v1/batches", data={"name": "x"})
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")


def test_a_batch_is_its_owners(small_queue: Served) -> None:
    batch = send(small_queue, "mine", requests(1))
    bob = {"authorization": f"Bearer {BOB}"}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        for batch_id in (batch["id"], NO_BATCH, "batch_1"):
            answer = small_queue.http.request(method, f"/v1/batches/{batch_id}{path}", headers=bob)
            assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    assert small_queue.http.get("/v1/batches", headers=bob).json()["data"] == []
    small_queue.http.delete(f"/v1/batches/{batch['id']}")


def test_pictures_lie_on_the_disk_and_fail_their_request_alone(small_queue: Served, photograph: Path) -> None:
    encoded = base64.b64encode(photograph.read_bytes()).decode()
    asked = SMALL | {"input_reference": f"data:image/jpeg;base64,{encoded}"}
    batch = send(small_queue, "pictures", [asked])
    (video_id,) = ids_of(batch)
    assert (small_queue.folder / "data" / "videos" / video_id / "input").read_bytes() == photograph.read_bytes()
    small_queue.wait(video_id)
    broken = small_queue.http.post(
        "/v1/batches/check", json={"name": "x", "requests": [asked, SMALL | {"input_reference": "AAAA" * 20}]}
    ).json()
    assert [(each["request"], each["param"]) for each in broken["problems"]] == [(1, "input_reference")]


def test_a_batch_outlives_its_server(tiny: Path, tmp_path: Path) -> None:
    """Killed in the middle: every request is made, once, and whoever sends it again is given the same."""
    server = Served(tmp_path, tiny, "--queue-size", 1, "--no-warm-up")
    server.wait_until_ready()
    batch = send(server, "outlives", asked := requests())
    wait_until(lambda: batch_of(server, batch["id"])["request_counts"]["completed"] > 1, poll_seconds=POLL_SECONDS)
    server.stop(signal.SIGKILL)
    server = Served(tmp_path, tiny, "--queue-size", 1, "--no-warm-up", port=server.port)
    server.wait_until_ready()
    assert ids_of(send(server, "outlives", asked)) == ids_of(batch)
    wait_until(lambda: batch_of(server, batch["id"])["status"] == "completed", poll_seconds=POLL_SECONDS)
    assert batch_of(server, batch["id"])["request_counts"]["completed"] == NUM_REQUESTS
    listed = server.http.get("/v1/videos?limit=100").json()["data"]
    assert sorted(video["id"] for video in listed) == sorted(ids_of(batch))
    ends = [video["completed_at"] for video in sorted(listed, key=lambda video: video["seed"])]
    assert ends == sorted(ends), "in the order in which they were asked"
    assert server.stop() == 0


def test_check_is_no_batch_and_takes_no_other_method(small_queue: Served) -> None:
    for method in ("GET", "DELETE", "PUT"):
        answer = small_queue.http.request(method, "/v1/batches/check")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
