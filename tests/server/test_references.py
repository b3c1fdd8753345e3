"""The picture that a call gives or refers to: where it comes from, what shape a video has of it, what is refused."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from PIL import Image

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestDefaults
from ringlight.families.model import ModelSpec
from ringlight.server.api.calls import CreateVideo
from ringlight.server.api.drafts import to_draft
from tests.server.calling import NOBODY, Shelf, data_url, draft, draft_refused, png, read, refused


def test_a_picture_comes_in_three_ways(spec: ModelSpec) -> None:
    picture = png()
    assert draft(spec, {"input_reference": picture}).request.image == picture
    for url in (
        data_url(picture),
        data_url(picture, "application/octet-stream"),
        "DATA:;base64," + data_url(picture)[22:],
    ):
        assert draft(spec, input_reference=url).request.image == picture
        assert draft(spec, input_reference={"image_url": url}).request.image == picture
    with_parameter = data_url(picture).replace(";base64", ";charset=utf-8;base64")
    assert draft(spec, input_reference=with_parameter).request.image == picture
    large = png(1600, 1200)
    assert len(large) > 3 * 2**20  # more than one piece of base64
    assert draft(spec, input_reference=data_url(large)).request.image == large


def test_base64_may_be_bare_and_its_lines_broken(spec: ModelSpec) -> None:
    picture = png()
    bare = base64.b64encode(picture).decode()
    wrapped = base64.encodebytes(picture).decode()
    for reference in (bare, wrapped, wrapped.replace("\n", "\r\n"), "data:image/png;base64,\n" + wrapped):
        assert draft(spec, input_reference=reference).request.image == picture
        assert draft(spec, input_reference={"image_url": reference}).request.image == picture
    large = png(1600, 1200)  # breaks in every place of the pieces that it is read in
    assert draft(spec, input_reference=base64.encodebytes(large).decode()).request.image == large
    assert "%2B" in draft_refused(spec, input_reference=data_url(picture)[:100] + " " + bare).message


def test_without_a_size_a_video_takes_the_shape_of_its_picture(spec: ModelSpec) -> None:
    """As it was held when it was taken; the answer to a size names what it cuts."""
    shelf = Shelf(spec)
    shelf.defaults = RequestDefaults(width=256, height=256, num_frames=9)
    exif = Image.Exif()
    exif[0x0112] = 6
    for files, fields, size in (
        ({"input_reference": png(40, 120)}, {}, (128, 416)),
        ({"input_reference": png(40, 120, kind="JPEG", exif=exif)}, {}, (416, 128)),
        ({}, {"input_reference": data_url(png(120, 40))}, (416, 128)),
        ({"input_reference": png(40, 120)}, {"size": "64x64"}, (64, 64)),
        ({"input_reference": png(40, 120)}, {"width": 64}, (64, 192)),
        ({"input_reference": png(40, 120)}, {"height": 96}, (32, 96)),
        ({}, {}, (256, 256)),
    ):
        made = asyncio.run(to_draft(read(CreateVideo, prompt="p", **fields), files, shelf, NOBODY))
        assert (made.request.width, made.request.height) == size
        assert made.asked_size == read(CreateVideo, prompt="p", **fields).width_height


def test_nulls_are_left_out_whatever_they_are_called(spec: ModelSpec) -> None:
    picture = png()
    made = draft(spec, quality=None, input_reference={"image_url": data_url(picture), "file_id": None, "detail": None})
    assert made.request.image == picture
    assert "quality" in refused(CreateVideo, {"prompt": "p", "quality": ""}).message
    assert "prompt" in refused(CreateVideo, {"prompt": None}).message


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("data:", "data URL"),
        ("data:image/png,abc", "data URL"),
        ("data:image/png;base64", "data URL"),
        ("data:text/html;base64,AAAA", "text/html"),
        ("data:image/png;base64,", "not a picture"),
        ("data:image/png;base64,AAAA", "not a picture"),
        ("data:image/png;base64,AA AA", "base64"),
        ("data:image/png;base64,AAA", "base64"),
        ("data:image/png;base64,AA==AAAA", "base64"),
        ("data:image/png;base64,A-_A", "base64"),
        ("data:image/png;base64,äAAA", "base64"),
        ("data:" + "x" * 10**6 + ";base64,AAAA", "data URL"),
        ({"file_id": "file-1"}, "file_id"),
        ({}, "image_url"),
        ("/etc/passwd", "http"),
        ("file:///etc/passwd", "http"),
        ("http://127.0.0.1/x.png", "allow"),
    ],
)
def test_references_that_lead_nowhere(spec: ModelSpec, reference: Any, said: str) -> None:
    error = draft_refused(spec, input_reference=reference)
    assert (error.status, error.param) == (400, "input_reference")
    assert said in error.message
    assert len(error.message) < 300


def test_limits_of_pictures(spec: ModelSpec) -> None:
    picture = png()
    for shelf in (Shelf(spec, max_image_bytes=len(picture) - 1), Shelf(spec, max_image_pixels=1199)):
        for files, call in (
            ({"input_reference": picture}, read(CreateVideo, prompt="p")),
            ({}, read(CreateVideo, prompt="p", input_reference=data_url(picture))),
        ):
            with pytest.raises(InvalidRequest, match="limit is"):
                asyncio.run(to_draft(call, files, shelf, NOBODY))
    exact = Shelf(spec, max_image_bytes=len(picture), max_image_pixels=1200)
    asyncio.run(to_draft(read(CreateVideo, prompt="p", input_reference=data_url(picture)), {}, exact, NOBODY))


def test_a_damaged_picture_is_refused_at_once(spec: ModelSpec) -> None:
    error = draft_refused(spec, {"input_reference": png()[:600]})
    assert (error.status, error.code, error.param) == (400, "invalid_request", "input_reference")
    assert "input_reference: is damaged" in error.message
