"""Videos that begin and end with a picture: Wan2.1-FLF2V needs both, and Wan2.2-I2V-A14B may have them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.request import RequestLimits, VideoRequest, grid
from ringlight.engine.engine import Engine
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model, model_defaults, read_model
from ringlight.server.collection.videos import without_bytes
from ringlight.worker.warming import smallest_requests
from tests.families.videos import fitted, make_request, png
from tests.ours import as_png
from tests.server.browser import card, chromium, opened
from tests.server.served import serve

KNOWN = known_model("Wan2.1-FLF2V-14B-720P")
ANY = b"\0"


def turned(photograph: Path) -> Image.Image:
    """The picture that a video ends with."""
    return fitted(photograph).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_the_built_in_card_has_the_published_sizes() -> None:
    assert round(KNOWN.transformer.layers.parameters / 1e9, 1) == 16.4
    found = model_defaults(KNOWN).typical("a cat", KNOWN)
    assert (found.width, found.height, found.num_inference_steps, found.flow_shift) == (1280, 720, 50, 16.0)


def test_its_checkpoints_are_told_from_those_with_one_picture(tiny_flf2v: Path, tiny_i2v21: Path) -> None:
    both, one = read_model(tiny_flf2v), read_model(tiny_i2v21)
    assert (both.family, one.family) == ("wan21_flf2v", "wan21_i2v")
    assert (both.needs_last_picture, one.takes_last_picture) == (True, False)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            {"max_frames": 4},
            "num_frames: a video that begins with one picture and ends with another has 5 frames or more, "
            "and the limit is 4",
        ),
        ({"max_pixels": 255}, "size: 16x16 has 256 pixels"),
        ({"max_steps": 0}, "num_inference_steps: 1 is not between"),
    ],
)
def test_limits_that_no_video_is_within_are_refused_at_the_start(
    tiny_flf2v: Path, limits: dict[str, int], words: str
) -> None:
    config = EngineConfig(model_path=str(tiny_flf2v), device="cpu")
    assert Engine(config, RequestLimits(max_frames=5, max_pixels=256, max_steps=1)).spec.needs_last_picture
    with pytest.raises(InvalidSetting) as caught:
        Engine(config, RequestLimits(**limits))
    name = read_model(tiny_flf2v).name
    assert f"limits: no video of {name} is within them: {words.format(name)}" in str(caught.value)


def test_a_picture_for_each_end_needs_frames_for_both() -> None:
    a14b = known_model("Wan2.2-I2V-A14B")

    def of_frames(spec: ModelSpec, number: int, most: int = 81, **pictures: bytes) -> tuple[str, str | None] | None:
        asked = make_request(spec, image=ANY, num_frames=number, **pictures)
        try:
            asked.check(spec, RequestLimits(max_frames=most))
        except InvalidRequest as error:
            return next((each.message, each.nearest) for each in error.problems if each.field == "num_frames")
        return None

    one, few = "1 frame is no video that begins with one picture", "has 5 frames or more, and the limit is 4"
    for spec in (KNOWN, a14b):
        for number, most, words, nearest in (
            (1, 81, one, "5"),
            (2, 81, "is not 4k+1", "5"),
            (1, 4, few, None),
            (5, 4, few, None),
        ):
            message, near = of_frames(spec, number, most, last_image=ANY) or ("", "")
            assert words in message and near == nearest
    assert of_frames(a14b, 1, 4) is None
    assert (grid(KNOWN)["num_frames"], grid(a14b)["num_frames"]) == ((5, 4), (1, 4))


def problems(asked: VideoRequest, name: str) -> dict[str, str]:
    try:
        asked.check(known_model(name), RequestLimits())
    except InvalidRequest as error:
        return {problem.field: problem.message for problem in error.problems}
    return {}


def test_who_takes_a_last_picture_is_told() -> None:
    a14b, i2v, flf2v = "Wan2.2-I2V-A14B", "Wan2.1-I2V-14B-480P", KNOWN.name

    def asked(name: str, **fields: object) -> VideoRequest:
        return make_request(known_model(name), **fields)

    assert problems(asked(a14b, image=ANY, last_image=ANY), a14b) == {}
    assert problems(asked(a14b, image=ANY), a14b) == {}
    assert "leave it out" in problems(asked(i2v, image=ANY, last_image=ANY), i2v)["last_image"]
    assert "--last-image-path" in problems(asked(flf2v, image=ANY), flf2v)["last_image"]
    assert problems(asked(flf2v), flf2v).keys() == {"image", "last_image"}
    assert problems(asked(flf2v, image=ANY, last_image=ANY, num_frames=1), flf2v).keys() == {"num_frames"}
    assert problems(asked(a14b, last_image=ANY), a14b).keys() == {"image", "last_image"}
    assert [video.last_image is None for video in smallest_requests(KNOWN, RequestLimits())] == [False]


def test_a_last_picture_is_another_workload_and_leaves_a_mark_in_the_store() -> None:
    one, both = (make_request(KNOWN, image=ANY, **more) for more in ({}, {"last_image": b"\1"}))
    assert "last_image" not in one.workload()
    assert both.workload()["last_image"]["bytes"] == 1
    assert without_bytes(both).pictures == {"last_image": b""}
    assert without_bytes(one).pictures == {}


SMALL = {"prompt": "from here to there", "num_inference_steps": 1, "num_frames": 5}


def inline(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


@pytest.mark.slow
def test_both_pictures_come_over_http_and_go_on_with_what_follows(
    tiny_flf2v: Path, photograph: Path, tmp_path: Path
) -> None:
    first, last = png(photograph), as_png(turned(photograph))
    as_files, as_json = {"input_reference": first, "last_image": last}, {"input_reference": inline(first)}
    with serve(tmp_path, tiny_flf2v) as server:

        def kept(video: dict[str, Any]) -> tuple[bytes, bytes]:
            folder = next(server.folder.rglob(video["id"]))
            return (folder / "input").read_bytes(), (folder / "last_image").read_bytes()

        def made(path: str, **body: Any) -> dict[str, Any]:
            answer = server.http.post(path, **body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def refused(path: str, **body: Any) -> tuple[str, str]:
            answer = server.http.post(path, **body)
            assert answer.status_code == 400
            return answer.json()["error"]["param"], answer.json()["error"]["message"]

        create, extend = "/v1/videos", "/v1/videos/extensions"
        for wrong, words in (
            ({}, "makes no video without the picture that it ends with"),
            ({"last_image": "data:text/plain;base64,aGk="}, "is of type text/plain"),
            ({"last_image": inline(b"no picture")}, "is not a picture"),
            ({"last_image": inline(last[:-500])}, "is damaged"),
            ({"last_image": {"file_id": "file_1"}}, "file_id is not supported"),
            ({"last_image": "https://example.org/last.png"}, "last_image: "),
        ):
            param, message = refused(create, json=SMALL | as_json | wrong)
            assert param == "last_image" and words in message, message
        broken = refused(create, data=SMALL, files=as_files | {"last_image": last[:-500]})
        assert broken[0] == "last_image" and "is damaged" in broken[1]
        assert refused(create, json=SMALL | {"last_image": inline(last)})[0] == "input_reference"
        of_files = made(create, data=SMALL | {"seed": 3}, files=as_files)
        of_json = made(create, json=SMALL | as_json | {"last_image": inline(last), "seed": 3})
        assert kept(of_files) == kept(of_json) == (first, last)
        assert (of_files["width"], of_files["height"]) == (of_json["width"], of_json["height"])
        server.wait(of_json["id"])
        server.http.delete(f"{create}/{of_files['id']}")
        remix = made(f"{create}/{of_json['id']}/remix", json={"prompt": "and back"})
        assert kept(remix) == (first, last)
        param, message = refused(extend, json={"prompt": "on", "video": of_json["id"]})
        assert param == "last_image" and "the picture that it ends with" in message
        asked = {"prompt": "on", "video": of_json["id"]}
        for body in ({"json": asked | {"last_image": inline(first)}}, {"data": asked, "files": {"last_image": first}}):
            extension = made(extend, **body)
            assert kept(extension)[1] == first
        server.wait(extension["id"])
        with chromium() as browser, opened(browser, server.url) as page:
            by_page = extended_by_page(page, of_json["id"], photograph)
        assert kept(by_page)[1] == photograph.read_bytes() and by_page["extended_from_video_id"] == of_json["id"]


def extended_by_page(page: Page, source_id: str, last: Path) -> dict[str, Any]:
    """What the page's form makes of a video that has to end with a picture, which is asked for where it is missing."""
    made = card(page, source_id, "completed")
    made.get_by_role("button", name="Extend", exact=True).click()
    box, send = made.locator(".follow .end"), made.get_by_role("button", name="Extend it")
    expect(box).to_contain_text("Last frame needed")
    send.click()
    expect(made.locator(".about > .problem")).to_contain_text("the picture that it ends with")
    box.locator("input").set_input_files(last)
    expect(box).to_contain_text(last.name)
    expect(box.locator(".shape")).to_contain_text("will be cut to the shape of")
    box.get_by_role("button", name="Remove").click()
    expect(box).not_to_contain_text(last.name)
    expect(box.locator("input")).to_be_focused()
    box.locator("input").set_input_files(last)
    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        send.click()
    assert answered.value.ok, answered.value.text()
    return dict(answered.value.json())
