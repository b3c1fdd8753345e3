"""Videos in an object store, with a real S3 and a real server: what is stored, how it is had, and what goes wrong."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from ringlight.client import Client
from ringlight.core.errors import InvalidSetting
from ringlight.server.collection import retention, uploads
from ringlight.server.collection.media import MediaStore
from tests.cli.commands import Done, ringlight
from tests.engine.processes import wait_until
from tests.forking import fork_command
from tests.server.browser import CHROMIUM, card, chromium, opened
from tests.server.objects import OPERATOR, Buckets, Way, buckets, in_child
from tests.server.served import POLL_SECONDS, SMALL, Served, error_of

pytestmark = pytest.mark.slow  # a real server, and a real store

KEY = {"authorization": "Bearer 0123456789abcdef"}
FILES = ("spritesheet.jpg", "thumbnail.webp", "video.mp4")
TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


def hasten() -> None:
    """Have a server look after things at once, in its own process."""
    retention.SWEEP_SECONDS = 0.2
    uploads.FIRST_PAUSE_SECONDS = uploads.LONGEST_PAUSE_SECONDS = 0.1


class Hasty(Served):
    """A server that does soon what others do every half a minute."""

    launch = staticmethod(partial(fork_command, prepare=hasten))


@pytest.fixture(scope="module")
def s3() -> Iterator[Buckets]:
    with buckets() as found:
        yield found


@contextmanager
def storing(
    folder: Path, checkpoint: Path, url: str, environment: Mapping[str, str], *options: object, port: int = 0
) -> Iterator[Hasty]:
    """A server that brings its videos there; it ends with the block, at once."""
    server = Hasty(folder, checkpoint, "--media-url", url, *options, port=port, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            server.stop()


@pytest.fixture(scope="module")
def bucket(s3: Buckets) -> str:
    """What the shared server stores in; something of others lies there already, and what a server before it left."""
    name = s3.new()
    for key in ("mine.txt", "films/ours.txt", "films/videos/readme", f"films/videos/video_{'0' * 32}/video.mp4"):
        s3.put(name, key, b"here before")
    return name


@pytest.fixture(scope="module")
def server(s3: Buckets, bucket: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hasty]:
    options = ["--api-key", "tester:0123456789abcdef", "--drain-timeout", 0, "--media-link-seconds", 60]
    environment = OPERATOR | {"AWS_ENDPOINT_URL": s3.url}
    with storing(tmp_path_factory.mktemp("media"), tiny, f"s3://{bucket}/films", environment, *options) as server:
        server.http.headers.update(KEY)
        yield server


@pytest.fixture(scope="module")
def stored(server: Hasty) -> dict[str, Any]:
    """A video that is in the store; tests leave it there."""
    return server.completed()


def keys_of(video_id: str, prefix: str = "films") -> list[str]:
    return [f"{prefix}/videos/{video_id}/{name}" for name in FILES]


def test_a_completed_video_lies_in_the_store_and_not_on_the_disk(
    server: Hasty, stored: dict[str, Any], s3: Buckets, bucket: str
) -> None:
    assert set(keys_of(stored["id"])) <= set(s3.keys(bucket))
    video = s3.get(bucket, keys_of(stored["id"])[-1])
    assert video.content[4:8] == b"ftyp"
    assert video.headers["content-type"] == "video/mp4"
    assert video.headers["content-disposition"] == f'inline; filename="{stored["id"]}.mp4"'
    assert video.headers["x-amz-meta-video"] == stored["id"]
    folder = server.folder / "data" / "videos" / stored["id"]
    wait_until(lambda: list(folder.iterdir()) == [])


def test_what_is_not_ours_stays_and_what_a_server_left_is_swept(
    server: Hasty, stored: dict[str, Any], s3: Buckets, bucket: str
) -> None:
    wait_until(lambda: f"films/videos/video_{'0' * 32}/video.mp4" not in s3.keys(bucket))
    assert {"mine.txt", "films/ours.txt", "films/videos/readme", "films/ringlight.json"} <= set(s3.keys(bucket))


@pytest.mark.parametrize("variant", TYPES)
def test_content_is_an_address_that_needs_no_key_and_ends(
    server: Hasty, stored: dict[str, Any], s3: Buckets, variant: str
) -> None:
    path = f"/v1/videos/{stored['id']}/content?variant={variant}"
    assert server.http.get(path, headers={"authorization": ""}).status_code == 401
    answer = server.http.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    address = httpx.URL(answer.headers["location"])
    assert str(address).startswith(s3.url)
    assert address.params["X-Amz-Expires"] == "60" and "X-Amz-Signature" in address.params
    whole = httpx.get(address, trust_env=False)
    assert (whole.status_code, whole.headers["content-type"]) == (200, TYPES[variant])
    part = httpx.get(address, headers={"range": "bytes=4-7"}, trust_env=False)
    assert (part.status_code, part.content) == (206, whole.content[4:8])
    assert whole.content == server.http.get(f"{path}&redirect=false").content


def test_an_address_is_signed_for_the_method_that_asks(server: Hasty, stored: dict[str, Any]) -> None:
    path = f"/v1/videos/{stored['id']}/content"
    asked, headed = server.http.get(path), server.http.head(path)
    assert headed.status_code == 307
    signatures = {httpx.URL(each.headers["location"]).params["X-Amz-Signature"] for each in (asked, headed)}
    assert len(signatures) == 2
    answer = httpx.head(headed.headers["location"], trust_env=False)
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"


def test_the_server_sends_the_bytes_where_it_is_asked_to(server: Hasty, stored: dict[str, Any]) -> None:
    path = f"/v1/videos/{stored['id']}/content?redirect=false"
    whole = server.http.get(path)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.headers["content-disposition"] == f'inline; filename="a-paper-boat-{stored["id"][6:14]}.mp4"'
    assert int(whole.headers["content-length"]) == len(whole.content)
    part = server.http.get(path, headers={"range": "bytes=4-7", "if-range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert server.http.get(path, headers={"range": "bytes=9999999-"}).status_code == 416
    assert server.http.get(path, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    headed = server.http.head(path)
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == whole.headers["content-length"]


def test_our_client_follows_to_the_store(server: Hasty, stored: dict[str, Any], tmp_path: Path) -> None:
    with Client(server.url, api_key="0123456789abcdef") as client:
        for variant in ("video", "thumbnail"):
            client.download(stored["id"], tmp_path / variant, variant)
    direct = server.http.get(f"/v1/videos/{stored['id']}/content?redirect=false").content
    assert (tmp_path / "video").read_bytes() == direct


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}: install the package")
def test_the_page_plays_and_saves_a_stored_video(server: Hasty, stored: dict[str, Any], tmp_path: Path) -> None:
    with chromium() as browser, opened(browser, server.url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(f"localStorage.setItem('ringlight.key', '{KEY['authorization'].removeprefix('Bearer ')}')")
        page.reload()
        made = card(page, stored["id"], "completed")
        made.get_by_role("button", name="Play").click()
        expect(made.locator("video")).to_have_js_property("videoWidth", 64)
        expect(made.locator("video")).to_have_attribute("poster", re.compile("^blob:"))
        with page.expect_download() as download:
            made.get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / "saved.mp4")
        assert {httpx.URL(url).port for url in asked if url.startswith("http")} == {server.port}  # nobody else
    direct = server.http.get(f"/v1/videos/{stored['id']}/content?redirect=false").content
    assert (tmp_path / "saved.mp4").read_bytes() == direct


def test_a_video_that_is_waited_for_comes_as_bytes(server: Hasty) -> None:
    answer = server.http.post("/v1/videos/sync", json=SMALL)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.content[4:8] == b"ftyp"
    server.http.delete(f"/v1/videos/{answer.headers['x-video-id']}")


def test_what_follows_a_stored_video_is_made_as_ever(server: Hasty, stored: dict[str, Any]) -> None:
    remix = server.http.post(f"/v1/videos/{stored['id']}/remix", json={"prompt": "another boat"}).json()
    asked = {"prompt": "it sails on", "video": {"id": stored["id"]}}
    extension = server.http.post("/v1/videos/extensions", json=asked).json()
    for video in (remix, extension):
        server.wait(video["id"])
    joined = server.http.get(f"/v1/videos/{extension['id']}/content?redirect=false").content
    assert len(joined) > 0
    again = server.http.post(f"/v1/videos/{extension['id']}/remix", json={"prompt": "it sinks"}).json()
    assert server.wait(again["id"])["duration_seconds"] == extension["duration_seconds"] > stored["duration_seconds"]


def test_a_deleted_video_is_gone_from_the_store(server: Hasty, s3: Buckets, bucket: str) -> None:
    video = server.completed()
    address = server.http.get(f"/v1/videos/{video['id']}/content").headers["location"]
    assert server.http.delete(f"/v1/videos/{video['id']}").is_success
    wait_until(lambda: not set(keys_of(video["id"])) & set(s3.keys(bucket)))
    assert httpx.get(address, trust_env=False).status_code == 404


def test_what_the_server_says_of_it(server: Hasty, stored: dict[str, Any]) -> None:
    assert server.http.get("/health").json()["media"] == {"status": "ready", "problem": None, "uploads_waiting": 0}
    metrics = metrics_of(server)
    assert metrics["ringlight_media_up"] == 1 and metrics["ringlight_uploads_waiting"] == 0
    assert metrics["ringlight_uploads_total"] >= 1 and metrics["ringlight_upload_bytes_total"] > 1000
    assert metrics["ringlight_upload_seconds_total"] > 0 and metrics["ringlight_upload_failures_total"] == 0
    assert metrics["ringlight_store_bytes"] >= metrics["ringlight_upload_bytes_total"] / 10


def metrics_of(server: Served) -> dict[str, float]:
    """The series without labels."""
    lines = [line.split() for line in server.http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line for line in lines if len(line) == 2) if "{" not in name}


def is_uploading(server: Served, video_id: str) -> bool:
    video = server.get(video_id)
    assert video["status"] in ("queued", "in_progress"), video
    return bool(video["stage"] == "Uploading")


def test_a_store_that_is_away_delays_the_end_and_loses_nothing(s3: Buckets, tiny: Path, tmp_path: Path) -> None:
    bucket = s3.new()
    url, options = f"s3://{bucket}", ["--no-media-redirect", "--drain-timeout", 1]
    with Way(s3.port) as way:
        with storing(tmp_path, tiny, url, way.environment, *options) as server:
            way.cut()
            kept, cancelled, deleted = (server.create(seed=seed)["id"] for seed in range(3))
            for video_id in (kept, cancelled, deleted):
                wait_until(partial(is_uploading, server, video_id), poll_seconds=POLL_SECONDS)
            video = server.get(kept)
            assert (video["progress"], video["queue_position"], video["completed_at"]) == (99, 0, None)
            listed = server.http.get("/v1/videos").json()["data"]
            assert {each["stage"] for each in listed} == {"Uploading"}
            content = server.http.get(f"/v1/videos/{kept}/content")
            assert (content.status_code, error_of(content)["code"]) == (404, "video_not_ready")
            wait_until(lambda: server.http.get("/health").json()["media"]["status"] == "away")
            told = server.http.get("/health").json()
            assert told["status"] == "ready"  # it goes on with videos
            assert told["media"] == {
                "status": "away",
                "problem": "the object store cannot be reached",
                "uploads_waiting": 3,
            }
            assert server.http.get("/readyz").status_code == 200
            assert metrics_of(server)["ringlight_media_up"] == 0
            assert metrics_of(server)["ringlight_upload_failures_total"] > 0
            end = server.http.post(f"/v1/videos/{cancelled}/cancel").json()
            assert (end["status"], end["error"]["code"]) == ("failed", "cancelled")
            assert server.http.delete(f"/v1/videos/{deleted}").is_success
            file = server.folder / "data" / "videos" / kept / "video.mp4"
            sha256, written = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns
            size_bytes = sum(path.stat().st_size for path in file.parent.iterdir())
            server.process.kill()
        options += ["--retention-bytes", size_bytes]
        with storing(tmp_path, tiny, url, way.environment, *options) as server:  # though it is still away
            assert is_uploading(server, kept)
            assert server.get(cancelled)["status"] == "failed"
            assert server.http.get(f"/v1/videos/{deleted}").status_code == 404
            assert file.stat().st_mtime_ns == written
            way.open()
            video = server.wait(kept)
            assert (video["progress"], video["restarts"]) == (100, 0)
            assert video["inference_time_s"] > 0  # its report was kept as well
            content = server.http.get(f"/v1/videos/{kept}/content")
            assert (content.status_code, hashlib.sha256(content.content).hexdigest()) == (200, sha256)
            wait_until(lambda: s3.keys(bucket) == ["ringlight.json", *(f"videos/{kept}/{name}" for name in FILES)])
            assert metrics_of(server)["ringlight_store_bytes"] == size_bytes
            newer = server.completed()["id"]  # which is too much
            wait_until(lambda: server.http.get(f"/v1/videos/{kept}").status_code == 404)
            wait_until(lambda: s3.keys(bucket) == ["ringlight.json", *(f"videos/{newer}/{name}" for name in FILES)])
            way.cut()
            gone = server.http.get(f"/v1/videos/{newer}/content")
            assert (gone.status_code, error_of(gone)["code"]) == (503, "media_error")
            assert server.http.delete(f"/v1/videos/{newer}").is_success  # it does not wait for the store
            way.open()
            wait_until(lambda: s3.keys(bucket) == ["ringlight.json"])
    assert "it answers again" in server.log


def serve_there(s3: Buckets, checkpoint: Path, folder: Path, url: str, *options: object) -> Done:
    """A server that is refused, or a dry run."""
    environment = os.environ | OPERATOR | {"AWS_ENDPOINT_URL": s3.url}
    arguments = ["serve", "--model-path", checkpoint, "--data-dir", folder, "--port", 0, "--media-url", url, *options]
    return ringlight(*arguments, environment=environment)


def test_what_will_never_work_ends_the_start(s3: Buckets, tiny: Path, tmp_path: Path) -> None:
    done = serve_there(s3, tiny, tmp_path, "s3://no-such-bucket/films")
    assert (done.code, done.err.count("\n")) == (3, 1), done.err
    assert "media-url s3://no-such-bucket/films: there is no such bucket" in done.err


def test_a_dry_run_asks_the_store_and_leaves_no_trace(s3: Buckets, tiny: Path, tmp_path: Path) -> None:
    bucket = s3.new()
    done = serve_there(s3, tiny, tmp_path, f"s3://{bucket}/films", "--dry-run")
    assert done.code == 0 and "media-url" in done.out, done.err
    assert s3.keys(bucket) == []


def test_a_prefix_is_of_one_database(s3: Buckets) -> None:
    bucket = s3.new()

    def work() -> None:
        one = MediaStore.open(f"s3://{bucket}/a")
        one.claim("one")
        one.claim("one")
        MediaStore.open(f"s3://{bucket}/b").claim("two")
        with pytest.raises(InvalidSetting, match="belongs to the server of another database") as caught:
            one.claim("two")
        assert f"remove s3://{bucket}/a/ringlight.json" in str(caught.value)

    in_child(work, AWS_ENDPOINT_URL=s3.url)
    assert s3.keys(bucket) == ["a/ringlight.json", "b/ringlight.json"]


def test_a_large_video_goes_in_parts_and_comes_whole(s3: Buckets, tmp_path: Path) -> None:
    bucket, video_id, content = s3.new(), f"video_{'1' * 32}", os.urandom(20 * 2**20)
    (tmp_path / "video.mp4").write_bytes(content)

    def work() -> None:
        media = MediaStore.open(f"s3://{bucket}/a")
        assert media.upload(video_id, {tmp_path / "video.mp4": "video/mp4"}) == len(content)
        media.fetch(video_id, "video.mp4", tmp_path / "again.mp4")
        assert list(media.video_ids()) == [video_id]

    in_child(work, AWS_ENDPOINT_URL=s3.url)
    assert (tmp_path / "again.mp4").read_bytes() == content
    assert s3.get(bucket, f"a/videos/{video_id}/video.mp4").headers["etag"].endswith('-4"')  # of four parts
