"""`ringlight jobs create --file` against a real server: ordered once, fetched once, and told in the end."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Done, Running, here
from tests.engine.processes import wait_until
from tests.server.served import LONG, POLL_SECONDS, Served
from tests.server.served import served as served

pytestmark = pytest.mark.slow  # a real server

SMALL = ("--size", "64x64", "--num-frames", 5, "--num-inference-steps", 2)


@pytest.fixture
def server(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The shared one, without the batches of other tests."""
    monkeypatch.setenv("RINGLIGHT_URL", served.url)
    yield served
    for batch in served.http.get("/v1/batches").json()["data"]:
        served.http.delete(f"/v1/batches/{batch['id']}")


def create(folder: Path, *options: object) -> Done:
    return here("jobs", "create", "--file", "prompts.csv", *SMALL, *options, folder=folder)


def write(folder: Path, *rows: str, header: str = "prompt,seed,output") -> None:
    (folder / "prompts.csv").write_text("\n".join((header, *rows, "")))


def summary_of(done: Done) -> dict[str, Any]:
    return dict(json.loads(done.out))


def ids_of(server: Served) -> list[str]:
    return [video["id"] for video in server.http.get("/v1/videos?limit=100").json()["data"]]


def test_a_file_is_made_fetched_and_told_and_made_once(server: Served, tmp_path: Path) -> None:
    write(tmp_path, "a boat,1,", "a whale,,day/whale", "a whale,,")
    done = create(tmp_path, "--output-dir", "films")
    assert done.code == 0, done.err
    head, tail = done.out.splitlines()
    assert re.fullmatch(r"prompts.csv \(batch_\w{32}\): 3 requests in \d+ s", head)
    assert tail == "  3 completed; 3 files in films"
    assert re.search(r"^  0%  batch  0 of 3, (1 in progress, 2|3) queued$", done.err, re.MULTILINE)
    films = tmp_path / "films"
    paths = [films / name for name in ("prompts-0002.mp4", "day/whale.mp4", "prompts-0004.mp4")]
    assert sorted(path for path in films.rglob("*") if path.is_file()) == sorted(paths)
    assert paths[1].read_bytes() != paths[2].read_bytes(), "each has a seed of its own"
    (batch,) = server.http.get("/v1/batches").json()["data"]
    assert server.get(ids_of(server)[0])["priority"] == -5

    before, made = {path: path.stat().st_mtime_ns for path in paths}, ids_of(server)
    paths[0].unlink()
    write(tmp_path, "a whale,,day/whale", "a boat,1,", "a whale,,w2", "a fish,3,")
    again = summary_of(create(tmp_path, "--output-dir", "films", "--json"))
    assert (again["batch_id"], again["counts"], again["failed"]) == (batch["id"], {"completed": 4}, {})
    assert [row["line"] for row in again["rows"]] == [2, 3, 4, 5]
    assert len(ids_of(server)) == len(made) + 1, "the fish"
    assert (films / "prompts-0003.mp4").exists() and (films / "w2.mp4").read_bytes()[4:8] == b"ftyp"
    assert paths[2].stat().st_mtime_ns == before[paths[2]]


def test_rows_that_cannot_be_made_are_named_all_at_once(server: Served, tmp_path: Path) -> None:
    write(tmp_path, "a,x,gone.png", "b,2,", ",3,", header="prompt,seed,input_reference")
    before = ids_of(server)
    done = create(tmp_path, "--output-dir", "films")
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[:2] == [
        "prompts.csv:2: input_reference: gone.png: No such file or directory",
        "prompts.csv:4: prompt: is missing",
    ]
    assert "2 of 3 rows cannot be made; nothing was created" in done.err
    assert create(tmp_path, "--dry-run").code == create(tmp_path, "--dry-run", "--skip-invalid").code == 3
    assert ids_of(server) == before and not (tmp_path / "films").exists()
    done = create(tmp_path, "--skip-invalid", "--output-dir", "films")
    assert done.code == 3 and "1 completed; 1 file in films" in done.out and "2 skipped, on lines 2, 4" in done.out
    write(tmp_path, "a,x,one", "b,2,one", header="prompt,seed,output")
    told = create(tmp_path, "--dry-run").err
    assert "prompts.csv:2: seed: " in told and "one.mp4 is the name of several videos" in told
    write(tmp_path, "a,1,64", "b,2,64", header="prompt,seed,widht")
    done = create(tmp_path)
    assert done.err.splitlines()[0] == (
        "prompts.csv:2: widht: is not a field of this call (nearest: width) (and on line 3)"
    )
    write(tmp_path, "a,1", header="prompt,seed")
    assert create(tmp_path, "--dry-run") == Done(0, "1 row can be made\n", "")


def test_what_failed_is_told_by_code_and_made_anew_if_wanted(server: Served, tmp_path: Path) -> None:
    header = "prompt,seed,timeout_seconds,num_inference_steps"
    write(tmp_path, "a boat,1,0.001,400", "a boat,2,,", header=header)
    done = create(tmp_path)
    assert done.code == 4
    assert "  1 completed" in done.out.splitlines()
    assert re.search(r"^  1 deadline_exceeded, on line 2: .* given$", done.out, re.MULTILINE)
    assert done.err.splitlines()[-1] == "ringlight: deadline_exceeded: 1 of 2 rows are not made or not fetched"
    (first,) = (row for row in summary_of(create(tmp_path, "--json"))["rows"] if row["line"] == 2)
    (again,) = (row for row in summary_of(create(tmp_path, "--json", "--retry-failed"))["rows"] if row["line"] == 2)
    assert first["video_id"] != again["video_id"]


def test_flags_of_an_order_hold_for_rows_that_say_nothing_else(server: Served, tmp_path: Path) -> None:
    write(tmp_path, "a boat,ann", "a boat,", header="prompt,user")
    blocking = server.create(**LONG)["id"]
    flags = ("--user", "bob", "--timeout-seconds", 900, "--priority", -7)
    batch_id = create(tmp_path, *flags, "--no-wait").out.strip()
    rows = server.http.get(f"/v1/batches/{batch_id}").json()["requests"]
    found = [server.get(row["video_id"]) for row in rows]
    assert [(video["user"], video["priority"]) for video in found] == [("ann", -7), ("bob", -7)]
    assert here("jobs", "cancel", batch_id).code == 0
    assert "  2 cancelled, on lines 2, 3" in create(tmp_path, *flags).out.splitlines()
    server.http.delete(f"/v1/videos/{blocking}")


def test_another_file_is_left_alone_unless_forced(server: Served, tmp_path: Path) -> None:
    write(tmp_path, "a boat,1,boat")
    (tmp_path / "boat.mp4").write_text("mine")
    done = create(tmp_path, "--output-dir", ".")
    assert done.code == 4 and "boat.mp4 is there already" in done.out
    assert (tmp_path / "boat.mp4").read_text() == "mine"
    assert create(tmp_path, "--output-dir", ".", "--force").code == 0
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"
    for video_id in ids_of(server)[:1]:  # fetched, and then gone from the server, as after its time
        server.http.delete(f"/v1/videos/{video_id}")
    assert create(tmp_path, "--output-dir", ".").code == 0
    os.remove(tmp_path / "boat.mp4")
    done = create(tmp_path, "--output-dir", ".")
    assert done.code == 4 and "1 not_found, on line 2" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_ends_in_the_middle_is_gone_on_with(
    server: Served, tmp_path: Path, number: signal.Signals
) -> None:
    write(tmp_path, *(f"a boat,{seed}," for seed in range(4)))
    blocking = server.create(**LONG)["id"]
    before, films = len(ids_of(server)), tmp_path / "films"
    arguments = ("jobs", "create", "--file", tmp_path / "prompts.csv", *SMALL, "--output-dir", films)
    running = Running(tmp_path, *arguments)
    try:
        running.wait_for("0 of 4")
        running.interrupt(number)
        done = running.end()
    finally:
        running.kill()
    if number == signal.SIGINT:
        assert done.code == 130 and "the batch goes on" in done.err and "jobs cancel batch_" in done.err
    server.http.delete(f"/v1/videos/{blocking}")
    wait_until(lambda: server.http.get("/v1/batches").json()["data"][0]["status"] == "completed", 60, POLL_SECONDS)
    done = here(*arguments)
    assert (done.code, len(list(films.glob("*.mp4")))) == (0, 4)
    assert len(ids_of(server)) == before - 1 + 4


def test_batches_are_shown_stopped_and_removed(server: Served, tmp_path: Path) -> None:
    write(tmp_path, "a boat,1,", "a boat,2,")
    blocking = server.create(**LONG)["id"]
    batch_id = create(tmp_path, "--no-wait", "--name", "mine").out.strip()
    assert here("jobs", "batches").out == f"{batch_id}  2 requests: 2 queued  mine\n"
    assert [each["id"] for each in json.loads(here("jobs", "batches", "--json").out)] == [batch_id]
    assert here("jobs", "cancel", batch_id).out == f"{batch_id}  2 requests: 2 failed\n"
    assert [line.split()[1] for line in here("jobs", "show", batch_id).out.splitlines()[1:]] == ["cancelled"] * 2
    done = here("jobs", "wait", batch_id)
    assert (done.code, done.out) == (4, f"{batch_id}  2 requests: 2 failed\n")
    assert done.err.splitlines()[-1] == "ringlight: cancelled: 2 of its requests failed"
    assert here("jobs", "rm", batch_id).out == f"{batch_id}  deleted\n"
    assert here("jobs", "show", batch_id).code == 3
    server.http.delete(f"/v1/videos/{blocking}")


def test_one_video_or_a_file() -> None:
    for arguments in ((), ("--prompt", "x", "--file", "a.csv"), ("--file", "a.csv", "--image-path", "a.png")):
        assert here("jobs", "create", *arguments).code == 2
