"""The client and `ringlight jobs` against the server itself: from an order to a file, and what is refused."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest

from ringlight.client import ApiError, Client, Preview, Progress, Video
from tests.cli.commands import TIMEOUT_SECONDS, Done, Running, here
from tests.engine.processes import wait_until

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef-me"
SMALL = {"size": "64x64", "num_frames": 5, "num_inference_steps": 3, "seed": 7}


@pytest.fixture(scope="module")
def url(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a key, once it is ready."""
    folder, log = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("log")
    flags = ["--model-type", "diffusion", "--model-path", tiny, "--port", 0, "--num-threads", 1, "--no-warm-up"]
    flags += ["--data-dir", folder / "kept", "--api-key", f"me:{KEY}", "--preview-seconds", 0.001]
    running = Running(log, "serve", *flags)
    try:
        running.wait_for("listening on http://")
        said = (log / "err").read_text() + (log / "out").read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found is not None, said
        with Client(found[0]) as client:
            wait_until(client.is_ready)
        yield found[0]
        running.interrupt(signal.SIGTERM)
        done = running.end()
        assert done.code == 0 and "Traceback" not in done.err
    finally:
        running.kill()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, KEY) as client:
        yield client


def jobs(url: str, *arguments: object) -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGLIGHT_URL", url)
        patch.setenv("RINGLIGHT_API_KEY", KEY)
        return here("jobs", *arguments)


def test_from_an_order_to_a_file(client: Client, tmp_path: Path, photograph: Path) -> None:
    ordered = client.create("a cat", image=photograph, user="me", **SMALL)
    assert ordered.status in ("queued", "in_progress") and ordered.prompt == "a cat" and ordered.seed == 7
    seen: list[Video] = []
    done = client.wait(ordered.id, timeout_seconds=TIMEOUT_SECONDS, on_change=seen.append)
    assert done.status == "completed" and done.progress == 100 and seen[-1] == done
    assert done.stages is not None and "Denoising" in [stage.name for stage in done.stages]
    assert done.memory is not None and len(done.memory) == 1
    report = client.report(done.id)
    assert report.workload["num_frames"] == 5 and report.total_seconds == done.inference_time_s
    client.download(done.id, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert len(list(film.decode(video=0))) == 5
    client.download(done.id, tmp_path / "small.webp", "thumbnail")
    assert (tmp_path / "small.webp").read_bytes()[8:12] == b"WEBP"
    assert client.models() == (done.model,)


def test_events_of_a_video(client: Client) -> None:
    events = list(client.events(client.create("a dog", **SMALL).id))
    assert isinstance(events[-1], Video) and events[-1].status == "completed"
    assert any(isinstance(event, Progress) for event in events)
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews and all(preview.image[:3] == b"\xff\xd8\xff" for preview in previews)


def test_a_link_needs_no_key(client: Client, tmp_path: Path) -> None:
    made = client.wait(client.create("a cat", **SMALL).id)
    client.download(made.id, tmp_path / "film.mp4")
    link = client.link(made.id)
    assert httpx.get(link.url).content == (tmp_path / "film.mp4").read_bytes()
    assert link.expires_at > (made.completed_at or 0)


def test_remix_extend_cancel_delete(client: Client) -> None:
    first = client.wait(client.create("a cat", **SMALL).id)
    remixed = client.remix(first.id, "a dog")
    assert (remixed.remixed_from_video_id, remixed.seed, remixed.prompt) == (first.id, 7, "a dog")
    assert client.remix(first.id, "a dog", seed=8).seed == 8
    extended = client.extend(first.id, "it runs away", num_frames=5)
    assert extended.extended_from_video_id == first.id
    assert client.wait(remixed.id).status == client.wait(extended.id).status == "completed"
    slow = client.create("a whale", size="256x160", num_frames=17, num_inference_steps=1000)
    assert client.cancel(slow.id).status in ("queued", "in_progress", "failed")
    ended = client.wait(slow.id)
    assert ended.error is not None and ended.error.code == "cancelled"
    ids = [video.id for video in client.list(order="asc")]
    assert ids.index(first.id) < ids.index(remixed.id) < ids.index(slow.id)
    client.delete(slow.id)
    with pytest.raises(ApiError) as caught:
        client.get(slow.id)
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_what_is_refused(url: str, client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.create("a cat", num_frames=6)
    assert (caught.value.status, caught.value.param) == (400, "num_frames") and "5" in str(caught.value)
    assert caught.value.request_id
    with pytest.raises(ApiError) as caught:
        client.create("a cat", gidance_scale=3)
    assert "guidance_scale" in str(caught.value)
    with pytest.raises(ApiError) as caught:
        client.create("a cat", image=b"not a picture")
    assert caught.value.status == 400
    with Client(url, "0123456789abcdef-you") as stranger, pytest.raises(ApiError) as caught:
        stranger.create("a cat")
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_the_commands(url: str, tmp_path: Path) -> None:
    made = jobs(url, "create", "--prompt", "a cat", "--size", "64x64", "--num-frames", 5, "--num-inference-steps", 2)
    assert made.code == 0, made.err
    video_id = made.out.strip()
    waited = jobs(url, "wait", video_id)
    assert (waited.code, waited.out) == (0, f"{video_id}  completed\n"), waited.err
    assert video_id in jobs(url, "ls").out
    assert "| Denoising |" in jobs(url, "show", video_id, "--report").out
    fetched = jobs(url, "download", video_id, "-o", tmp_path / "film.mp4")
    assert fetched.code == 0 and (tmp_path / "film.mp4").stat().st_size > 500
    assert jobs(url, "rm", video_id).out == f"{video_id}  deleted\n"
    assert jobs(url, "show", video_id).code == 3
    refused = jobs(url, "create", "--prompt", "a cat", "--size", "65x64")
    assert refused.code == 3 and refused.err.startswith("ringlight: invalid_request: ")
