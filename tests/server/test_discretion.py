"""No message to a client holds a path of the server: every code, in answers, videos, events, webhooks, reports."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from ringlight.core import errors as core
from ringlight.core.config import EngineConfig
from ringlight.core.layout import ParallelLayout
from ringlight.core.messages import RunJob
from ringlight.core.settings import ServeSettings
from ringlight.server.app import VideoEvents, create_app
from ringlight.server.collection.ledger import as_stored
from ringlight.server.collection.videos import Videos
from ringlight.server.http.discretion import Discretion
from tests.core.checkpoints import copy_json
from tests.engine.processes import wait_until
from tests.engine.replicas import report_of
from tests.server.served import Served
from tests.server.stores import new_job

KINDS = [core.RinglightError, core.InvalidRequest, core.WorkerError, *core.ERRORS.values()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/my data/videos/video_1/video.mp4: No space left", "data-dir/videos/video_1/video.mp4: No space left"),
        ("'/srv/my data' is full", "'data-dir' is full"),
        ("/models/wan/vae/config.json: no class", "model-path/vae/config.json: no class"),
        ("/models/wan2/vae: no such folder", "vae: no such folder"),
        ("see /etc/keys, or (/opt/x/y.so)", "see keys, or (y.so)"),
        ("OSError: libcudart.so:/usr/lib/x.so.12: cannot open", "OSError: libcudart.so:x.so.12: cannot open"),
        ("[Errno 2] No such file: '/home/bob smith/a b.txt'", "[Errno 2] No such file: 'a b.txt'"),
        ("open file:///root/x.json.", "open file://x.json."),
        ("sqlite:////srv/other/jobs.sqlite failed", "store-url failed"),
        ("postgresql+psycopg://me@10.0.0.5/jobs failed: down", "store-url failed: down"),
        ("there is no path /foo; /docs lists them", "there is no path foo; /docs lists them"),
        ("send it to /v1/videos/sync, /readyz. says when", "send it to /v1/videos/sync, /readyz. says when"),
        ("fetch https://example.com/a/b.png", "fetch https://example.com/a/b.png"),
        ("24/7 and/or 1 / 2, ./here/x ~/y", "24/7 and/or 1 / 2, ./here/x ~/y"),
        ("64x64 is too large (nearest: 32x32)", "64x64 is too large (nearest: 32x32)"),
    ],
)
def test_paths_are_told_by_what_a_client_may_know(text: str, told: str) -> None:
    tell = Discretion({"/srv/my data": "data-dir", "/models/wan/": "model-path"})
    assert tell(text) == told
    assert tell(told) == told


def test_files_and_folders_of_loras_are_told_by_their_flags() -> None:
    config = EngineConfig(
        model_path="/m", lora=("/my loras/base.safetensors:0.5:high",), lora_dir=("/all loras", "rel/dir")
    )
    tell = Discretion.of(ServeSettings(), config, Path("/m"))
    relative = Path("rel/dir").absolute()
    said = f"/my loras/base.safetensors: damaged; /all loras/styles/ink.safetensors: gone; {relative}/x: cut"
    assert tell(said) == "lora: damaged; lora-dir/styles/ink.safetensors: gone; lora-dir/x: cut"


def test_a_relative_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ServeSettings(data_dir="kept")
    tell = Discretion.of(settings, EngineConfig(model_path="wan"), Path("../ckpt/wan"))
    assert tell(f"{tmp_path}/kept/x: full, ../ckpt/wan/vae: none, kept as it is") == (
        "data-dir/x: full, model-path/vae: none, kept as it is"
    )


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server, with a space in it, and a checkpoint without weights."""
    folder = tmp_path_factory.mktemp("a server")
    copy_json(tiny, folder / "my checkpoint")
    return folder


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[FastAPI]:
    """A server's application that is not started: no workers."""
    settings = ServeSettings(data_dir=str(folder / "my data"))
    app = create_app(settings, EngineConfig(model_path=str(folder / "my checkpoint"), load_format="dummy"))
    yield app
    videos: Videos = app.state.parts.videos
    videos.store.close()
    videos.folder.close()


def ask(app: FastAPI, *paths: str) -> list[httpx.Response]:
    """The answers to GETs, without a socket."""

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(run())


def messages(folder: Path) -> list[str]:
    """What errors may say, with every path that a server has."""
    return [
        f"{folder}/my data/videos/video_1/video.mp4: No space left on device; make room",
        f"{folder}/my checkpoint/transformer/config.json: not readable: {folder}/my checkpoint",
        f"FileNotFoundError: [Errno 2] No such file or directory: '{tempfile.gettempdir()}/tmpabc/x'",
        f"ImportError: {Path.home()}/lib/libx.so: undefined symbol",
        f"the database of jobs sqlite:///{folder}/my data/jobs.sqlite failed",
    ]


def check(text: str, folder: Path) -> None:
    """No path in what was told, in whatever way it is escaped."""
    told = text.replace("\\/", "/")
    places = (str(folder), "/my data", "/my checkpoint", f"{tempfile.gettempdir()}/", f"{Path.home()}/")
    assert [place for place in places if place in told] == [], text


def test_no_answer_of_any_code(app: FastAPI, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = messages(folder)
    raised: list[Exception] = [
        kind.of("output", text) if kind is core.InvalidRequest else kind(text) for kind in KINDS for text in said
    ]
    raised += [ZeroDivisionError(text) for text in said]

    @app.get("/v1/raise/{number}")
    async def fail(number: int) -> None:
        raise raised[number]

    for number, answer in enumerate(ask(app, *(f"/v1/raise/{number}" for number in range(len(raised))))):
        assert answer.status_code >= 400 and answer.json()["error"]["message"]
        check(answer.text, folder)
        assert str(raised[number]) in caplog.text, "the operator reads it in full"


@pytest.mark.slow
def test_no_video_event_webhook_or_report(app: FastAPI, folder: Path) -> None:
    videos: Videos = app.state.parts.videos
    ids = []
    for kind in KINDS:
        for text in messages(folder):
            error = kind.of("output", text) if kind is core.InvalidRequest else kind(text)
            job = videos.store.add(new_job())
            videos.store.finish(job.id, "failed", job.created_at, None, as_stored(error))
            ids.append(job.id)
    made = videos.store.add(new_job())
    output = str(folder / "my data" / "videos" / made.id / "video.mp4")
    order = RunJob(job_id=made.id, request=made.request, output=output, layout=ParallelLayout())
    videos.store.finish(made.id, "completed", made.created_at, None, report=msgspec.json.encode(report_of(order)))

    paths = [f"/v1/videos/{video_id}{rest}" for video_id in [*ids, made.id] for rest in ("", "/events", "/report")]
    for answer in ask(app, "/v1/videos?limit=100", *paths):
        check(answer.text, folder)
    told = json.loads(ask(app, f"/v1/videos/{made.id}/report")[0].text)
    assert told["outputs"] == ["video.mp4"]
    for video_id in ids:
        event = VideoEvents(videos).event(video_id)
        assert event is not None and event[0] == "video.failed"
        check(json.dumps(event[1]), folder)
        assert videos.store.get(video_id).error is not None
    assert str(folder) in str([videos.store.get(video_id).error for video_id in ids]), "the store keeps it in full"


def test_nor_the_open_endpoints(app: FastAPI, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches the port reads them, without a key."""
    (runner,) = app.state.parts.videos.engine._runners
    assert ask(app, "/version")[0].json()["layout_reason"] == app.state.parts.videos.engine.choice.reason
    paths = ("/readyz", "/health", "/version", "/livez", "/metrics", "/v1/models", "/openapi.json", "/nowhere")
    for kind in (core.WorkerError, core.InvalidCheckpoint):
        monkeypatch.setattr(runner, "failure", kind("; ".join(messages(folder))))
        answers = ask(app, *paths)
        assert answers[0].status_code == 503 and "replica-0: " in answers[0].json()["error"]["message"]
        for answer in answers:
            check(answer.text, folder)


@pytest.mark.slow
def test_a_real_server_that_cannot_write_or_read(served: Served) -> None:
    data = served.folder / "data"
    broken = served.completed()
    (data / "videos" / broken["id"] / "video.mp4").write_bytes(b"no video")
    video = served.create(num_inference_steps=100)
    folder = data / "videos" / video["id"]
    served.wait(video["id"], "in_progress")
    folder.rename(data / "elsewhere")
    failed = served.wait(video["id"], "failed")
    shutil.rmtree(data / "elsewhere")
    assert failed["error"]["code"] == "output_error"
    answers = [
        served.http.get(f"/v1/videos/{video_id}{rest}")
        for video_id in (video["id"], broken["id"])
        for rest in ("", "/events", "/report", "/content", "/content?variant=thumbnail")
    ]
    for answer in [*answers, served.http.get("/v1/videos")]:
        assert str(served.folder) not in answer.text and "/" + served.folder.name not in answer.text, answer.text
    said = f"{video['id']} failed: output_error: {folder / 'video.mp4'}: "
    wait_until(lambda: said in "".join(str(json.loads(line)) for line in served.log.splitlines() if line[:1] == "{"))
