"""The contract, as the real client of OpenAI (openai 3.54.0) sees it: sync and async, against a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Video
from PIL import Image

from tests.server.sdk import LONGER, OMITTED, REST, Counting, create, extend, openai_client, poll
from tests.server.served import Served

SIZE: Any = "64x64"
QUARTER: Any = "0.25"

pytestmark = pytest.mark.slow  # a real server, or several processes


@pytest.fixture
def transport() -> Counting:
    return Counting()


@pytest.fixture
def client(served: Served, transport: Counting) -> Iterator[OpenAI]:
    with openai_client(served, transport) as client:
        yield client


@pytest.fixture(scope="module")
def made_before(served: Served) -> Video:
    """A video that tests read and leave as it is."""
    with openai_client(served, Counting()) as client:
        return poll(client, create(client))


def frames_of(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_create_poll_and_download(client: OpenAI, served: Served) -> None:
    fields: Any = {"prompt": "a paper boat", "size": "64x64", "extra_body": REST}
    video = client.videos.create_and_poll(**fields)
    assert (video.status, video.progress, video.object, video.prompt) == ("completed", 100, "video", "a paper boat")
    assert (video.size, video.seconds, video.error, video.remixed_from_video_id) == ("64x64", "0.21", None, None)
    assert video.model == client.models.list().data[0].id
    assert video.completed_at is not None
    assert video.expires_at is not None
    assert abs(video.created_at - time.time()) < 120
    assert 0 <= video.completed_at - video.created_at < 120
    assert video.expires_at - video.completed_at == 7 * 24 * 3600
    content = client.videos.download_content(video.id).read()
    assert frames_of(content) == 5


def test_the_same_with_the_async_client(served: Served) -> None:
    async def make() -> tuple[Video, bytes, list[str], bool]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            fields: Any = {"prompt": "a paper boat", "size": "64x64", "extra_body": REST}
            calls = [client.videos.create_and_poll(**fields, poll_interval_ms=50) for _ in range(3)]
            made = await asyncio.gather(*calls)
            content = await (await client.videos.download_content(made[0].id)).aread()
            listed = [video.id async for video in client.videos.list(limit=2)]
            deleted = await client.videos.delete(made[1].id)
            with pytest.raises(openai.NotFoundError):
                await client.videos.retrieve(made[1].id)
            assert len({video.id for video in made}) == 3
            assert {video.id for video in made} <= set(listed)
            return made[0], content, listed, deleted.deleted

    video, content, listed, was_deleted = asyncio.run(make())
    assert (video.status, frames_of(content), was_deleted) == ("completed", 5, True)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("kind", ["path", "bytes", "named", "data URL"])
def test_a_first_frame(client: OpenAI, served: Served, photograph: Path, kind: str) -> None:
    encoded = photograph.read_bytes()
    references: dict[str, Any] = {
        "path": photograph,
        "bytes": encoded,
        "named": ("first.jpg", encoded, "image/jpeg"),
        "data URL": openai.omit,
    }
    url = f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
    # The client's own argument takes no object, whatever its types say: it goes as input_reference[image_url].
    reference: Any = {"input_reference": {"image_url": url}} if kind == "data URL" else {}
    video = create(client, input_reference=references[kind], extra_body=REST | reference)
    kept = served.folder / "data" / "videos" / video.id / "input"
    assert kept.read_bytes() == encoded
    poll(client, video)
    assert (
        client.videos.download_content(video.id).read()
        != client.videos.download_content(poll(client, create(client)).id).read()
    )


def test_every_field_of_the_answer_is_the_request_resolved(client: OpenAI) -> None:
    video = create(client, seconds="0.5", extra_body={"num_inference_steps": 1, "guidance_scale": 1, "user": "me"})
    plain = video.to_dict()
    assert plain["num_frames"] == 13  # 12 frames are half a second, and 13 the fewest that are as long
    assert plain["num_inference_steps"] == 1
    assert plain["guidance_scale"] == 1.0
    assert plain["flow_shift"] == 5.0
    assert plain["layout"] == "u1r1"
    assert plain["user"] == "me"
    assert isinstance(plain["seed"], int)
    done = poll(client, video).to_dict()
    assert isinstance(done["inference_time_s"], float)
    assert isinstance(done["stages"], list)
    assert plain["layout_reason"] == done["layout_reason"] == "u1r1: one rank has nothing to split"
    assert plain.keys() == done.keys()


def test_when_to_poll(client: OpenAI, served: Served) -> None:
    fields: Any = {"prompt": "x", "size": "64x64", "extra_body": LONGER}
    asked = client.videos.with_raw_response.create(**fields)
    video = asked.parse()
    assert 500 <= int(asked.headers["openai-poll-after-ms"]) <= 10_000
    again = client.videos.with_raw_response.retrieve(video.id)
    assert 500 <= int(again.headers["openai-poll-after-ms"]) <= 10_000
    served.http.post(f"/v1/videos/{video.id}/cancel")
    over = client.videos.with_raw_response.retrieve(video.id)
    assert over.parse().status == "failed"
    assert "openai-poll-after-ms" not in over.headers


def test_the_client_polls_as_it_is_told(client: OpenAI, transport: Counting) -> None:
    video = create(client)
    transport.sent.clear()
    assert client.videos.poll(video.id).status == "completed"
    assert transport.sent[0].headers["x-stainless-poll-helper"] == "true"
    assert len(transport.sent) < 20


def test_a_cancelled_video_has_failed(client: OpenAI, served: Served) -> None:
    video = create(client, extra_body=LONGER)
    answer = served.http.post(f"/v1/videos/{video.id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    failed = client.videos.poll(video.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "cancelled")
    assert failed.progress < 100


def test_pages(client: OpenAI, made_before: Video) -> None:
    ids = [create(client, extra_body=LONGER).id for _ in range(5)]
    try:
        page = client.videos.list(limit=2)
        assert [video.id for video in page.data] == ids[:2:-1]
        assert (page.has_more, page.last_id) == (True, ids[3])
        everything = [video.id for video in client.videos.list(limit=2)]
        assert everything[:5] == ids[::-1]
        assert len(everything) == len(set(everything))
        assert made_before.id in everything
        assert [video.id for video in client.videos.list(order="asc", limit=100)][::-1] == everything
        after = client.videos.list(after=ids[1], order="asc")
        assert [video.id for video in after.data] == ids[2:]
        assert after.has_more is False
        with pytest.raises(openai.NotFoundError):
            client.videos.list(after="video_" + "0" * 32)
        with pytest.raises(openai.BadRequestError, match="limit"):
            client.videos.list(limit=101)
    finally:
        for video_id in ids:
            client.videos.delete(video_id)


def test_delete(client: OpenAI, served: Served) -> None:
    video = poll(client, create(client))
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.object, gone.deleted) == (video.id, "video.deleted", True)
    for again in (client.videos.retrieve, client.videos.delete, client.videos.download_content):
        with pytest.raises(openai.NotFoundError):
            again(video.id)
    assert not (served.folder / "data" / "videos" / video.id).exists()


def test_deleting_stops_what_runs(client: OpenAI, served: Served) -> None:
    running = create(client, extra_body=LONGER)
    served.wait(running.id, "in_progress")
    started = time.monotonic()
    client.videos.delete(running.id)
    poll(client, create(client))  # the next one has the ranks
    assert time.monotonic() - started < 15
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(running.id)


def test_content_in_all_variants(client: OpenAI, made_before: Video) -> None:
    content = {
        variant: client.videos.download_content(made_before.id, variant=variant)
        for variant in ("video", "thumbnail", "spritesheet")
    }
    assert frames_of(content["video"].read()) == 5
    thumbnail, sheet = (Image.open(io.BytesIO(content[name].read())) for name in ("thumbnail", "spritesheet"))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (64, 64))
    assert (sheet.format, sheet.size) == ("JPEG", (4 * 64, 2 * 64))
    part = client.videos.download_content(made_before.id, extra_headers={"Range": "bytes=-100"})
    assert part.response.status_code == 206
    assert part.read() == content["video"].read()[-100:]


def test_content_to_a_file(client: OpenAI, made_before: Video, tmp_path: Path) -> None:
    with client.videos.with_streaming_response.download_content(made_before.id) as answer:
        answer.stream_to_file(tmp_path / "video.mp4")
    assert frames_of((tmp_path / "video.mp4").read_bytes()) == 5


def test_content_too_early(client: OpenAI, transport: Counting) -> None:
    video = create(client, extra_body=LONGER)
    transport.sent.clear()
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.download_content(video.id)
    assert caught.value.code == "video_not_ready"
    assert len(transport.sent) == 1
    client.videos.delete(video.id)


def test_remix(client: OpenAI, made_before: Video) -> None:
    same = poll(client, client.videos.remix(made_before.id, prompt="a paper boat"))
    other = poll(client, client.videos.remix(made_before.id, prompt="a stone"))
    assert same.remixed_from_video_id == other.remixed_from_video_id == made_before.id
    settings = ("size", "num_frames", "fps", "seed", "num_inference_steps", "guidance_scale", "flow_shift")
    for video in (same, other):
        assert [video.to_dict()[name] for name in settings] == [made_before.to_dict()[name] for name in settings]
    assert (other.prompt, same.prompt) == ("a stone", "a paper boat")
    original = client.videos.download_content(made_before.id).read()
    assert client.videos.download_content(same.id).read() == original
    assert client.videos.download_content(other.id).read() != original


def test_a_remix_begins_with_the_same_picture(client: OpenAI, photograph: Path) -> None:
    first = poll(client, create(client, input_reference=photograph))
    again = poll(client, client.videos.remix(first.id, prompt="a paper boat"))
    assert client.videos.download_content(again.id).read() == client.videos.download_content(first.id).read()


def test_an_unfinished_video_cannot_be_remixed_and_the_client_asks_once(client: OpenAI, transport: Counting) -> None:
    video = create(client, extra_body=LONGER)
    for ask in (
        lambda: client.videos.remix(video.id, prompt="x"),
        lambda: extend(client, video.id),
    ):
        transport.sent.clear()
        with pytest.raises(openai.ConflictError) as caught:
            ask()
        assert caught.value.code == "video_not_finished"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(transport.sent) == 1
    client.videos.delete(video.id)


def test_edits_are_not_for_this_model_and_the_client_asks_once(
    client: OpenAI, transport: Counting, made_before: Video
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.videos.edit(prompt="x", video=OMITTED, extra_body={"video": {"id": made_before.id}})
    assert (caught.value.status_code, caught.value.code) == (501, "unsupported")
    assert len(transport.sent) == 1
    with pytest.raises(openai.InternalServerError):
        client.videos.edit(prompt="x", video=b"\0\0\0\x18ftypmp42")
    assert len(transport.sent) == 2


def test_characters_are_not_for_this_model_and_the_client_asks_once(client: OpenAI, transport: Counting) -> None:
    for ask in (
        lambda: client.videos.create_character(name="Ann", video=b"\0\0\0\x18ftypmp42"),
        lambda: client.videos.get_character("char_1"),
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            ask()
        assert (caught.value.status_code, caught.value.code) == (501, "unsupported")
    assert len(transport.sent) == 2


def test_seconds_are_as_they_were_asked(client: OpenAI) -> None:
    """Of an extension those of the whole. The true length stands beside them."""
    rest = {name: value for name, value in REST.items() if name != "num_frames"}
    video = poll(client, client.videos.create(prompt="a boat", size=SIZE, seconds=QUARTER, extra_body=rest))
    assert (video.seconds, video.to_dict()["duration_seconds"]) == ("0.25", round(9 / 24, 6))
    remix = client.videos.remix(video.id, prompt="a ship")
    assert remix.seconds == "0.25"
    longer = extend(client, video.id)  # by 0.2
    assert (longer.seconds, longer.to_dict()["duration_seconds"]) == ("0.45", round((9 + 5 - 1) / 24, 6))
    for each in (remix, longer):
        poll(client, each)


def test_an_extension_holds_both_videos(client: OpenAI, made_before: Video) -> None:
    video = poll(client, extend(client, made_before.id))
    plain = video.to_dict()
    assert (plain["extended_from_video_id"], plain["num_frames"], plain["size"]) == (made_before.id, 5, "64x64")
    assert (plain["num_inference_steps"], plain["fps"]) == (2, 24)
    content = client.videos.download_content(video.id).read()
    assert frames_of(content) == 5 + 5 - 1
    assert first_frames(content, 4) == pytest.approx(
        first_frames(client.videos.download_content(made_before.id).read(), 4), abs=6
    )


def first_frames(content: bytes, number: int) -> list[float]:
    """Mean brightness of the first frames."""
    with av.open(io.BytesIO(content)) as container:
        means = [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    return means[:number]


def test_an_uploaded_video_cannot_be_extended(client: OpenAI) -> None:
    asked: Any = {"prompt": "the sea", "seconds": "0.2", "video": b"\0\0\0\x18ftypmp42"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.extend(**asked)
    assert caught.value.param == "video"


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"prompt": "  "}, "prompt", "empty"),
        ({"size": "64x65"}, "size", "32"),
        ({"size": "large"}, "size", "WIDTHxHEIGHT"),
        ({"seconds": "soon"}, "seconds", "number"),
        ({"seconds": "-1"}, "seconds", ""),
        ({"extra_body": {"num_frames": 6}}, "num_frames", "nearest: 5"),
        ({"extra_body": {"num_frame": 5}}, "num_frame", "nearest: num_frames"),
        ({"extra_body": {"output_path": "/tmp/x.mp4"}}, "output_path", "not a field"),
        ({"extra_body": {"n": 2}}, "n", "1"),
        ({"input_reference": b"not a picture"}, "input_reference", "picture"),
        ({"extra_body": {"input_reference": {"image_url": "http://127.0.0.1:1/a.png"}}}, "input_reference", "allow"),
    ],
    ids=str,
)
def test_a_bad_request_names_the_field(
    client: OpenAI, transport: Counting, fields: dict[str, Any], param: str, word: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **fields)
    error = caught.value
    assert error.param == param
    assert word in error.message
    assert error.type == "invalid_request_error"
    assert error.code is not None
    assert error.request_id == error.response.headers["x-request-id"]
    assert len(transport.sent) == 1


def test_an_unknown_model(client: OpenAI, transport: Counting) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, model="sora-2")
    assert (caught.value.code, caught.value.param, len(transport.sent)) == ("model_not_found", "model", 1)
    for model in client.models.list().data:
        assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("sora-2")
