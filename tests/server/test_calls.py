"""From what a client sent to a draft that can be made, or to a 400 that says all that is wrong."""

from __future__ import annotations

import asyncio
import base64
import difflib
import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ringlight.core.errors import InvalidLayout, InvalidRequest
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.core.sizes import decide_size
from ringlight.core.video_fields import MAX_SEED
from ringlight.families.model import ModelSpec
from ringlight.server.api.calls import AnyCall, Call, CreateVideo, ExtendVideo, RemixVideo, parse
from ringlight.server.api.drafts import frames_for, to_draft
from ringlight.server.collection.view import Draft
from ringlight.server.http.body import Body
from ringlight.server.http.http_error import HttpError, to_api_error
from ringlight.server.safety.outbound import Outbound

NOBODY = Outbound((), 1, 10**6)


class Shelf:
    """What to_draft asks of the collection of videos, without one."""

    def __init__(self, spec: ModelSpec, round_sizes: bool = False, **limits: int) -> None:
        self.model_names = ("wan",)
        self.spec = spec
        self.round_sizes = round_sizes
        self.limits = RequestLimits(**limits)
        self.defaults = RequestDefaults(width=64, height=64, num_frames=9)

    def complete(self, prompt: str, *, width: Any, height: Any, picture_size: Any, **fields: Any) -> VideoRequest:
        asked = (width, height)
        width, height = decide_size(asked, picture_size, self.defaults, self.spec, self.limits, self.round_sizes)
        return self.defaults.complete(prompt, self.spec, width=width, height=height, **fields)

    def with_loras(self, request: VideoRequest) -> VideoRequest:
        return request


def body(fields: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> Body:
    return Body(fields=dict(fields), files=dict(files or {}), sha256="")


def read(call: type[AnyCall], /, files: Mapping[str, bytes] | None = None, **fields: Any) -> AnyCall:
    return parse(call, body(fields, files))


def refused(model: type[Call], fields: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> HttpError:
    with pytest.raises(HttpError) as caught:
        parse(model, body(fields, files))
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    return caught.value


def draft(spec: ModelSpec, files: Mapping[str, bytes] | None = None, **fields: Any) -> Draft:
    return asyncio.run(to_draft(read(CreateVideo, prompt="p", **fields), files or {}, Shelf(spec), NOBODY))


def draft_refused(spec: ModelSpec, files: Mapping[str, bytes] | None = None, **fields: Any) -> HttpError:
    with pytest.raises((HttpError, InvalidRequest, InvalidLayout)) as caught:
        draft(spec, files, **fields)
    return to_api_error(caught.value)


def png(width: int = 40, height: int = 30, mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


# Reading


@pytest.mark.parametrize(
    "sigmas", [[1, 0.75, 0.5], ["1", "0.75", "0.5"], "1, 0.75,0.5", "[1,0.75,0.5]", (1, 0.75, 0.5)]
)
def test_sigmas_are_a_list_or_a_text(spec: ModelSpec, sigmas: Any) -> None:
    request = draft(spec, sigmas=sigmas, sampler="euler").request
    assert (request.sigmas, request.num_inference_steps, request.flow_shift) == ((1.0, 0.75, 0.5), 3, 1.0)


def test_what_a_form_leaves_empty_is_left_out(spec: ModelSpec) -> None:
    request = draft(spec, sampler="", sigmas=" ").request
    assert (request.sampler, request.sigmas) == (None, None)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"sampler": "lightx2v"}, "sampler", "nearest: lightx2v-4step"),
        ({"sampler": 4}, "sampler", "string"),
        ({"sampler": "fastwan-3step", "num_inference_steps": 4}, "num_inference_steps", "nearest: 3"),
        ({"sampler": "fastwan-3step", "flow_shift": 5}, "flow_shift", "grid is fixed"),
        ({"sigmas": [1, 0.5, 0]}, "sigmas", "leave out the 0"),
        ({"sigmas": [0.5, 0.75]}, "sigmas", "does not fall"),
        ({"sigmas": "1, nought"}, "sigmas.1", "number"),
        ({"sigmas": [1, 0.5], "num_inference_steps": 4}, "num_inference_steps", "nearest: 2"),
        ({"sampler_name": "euler"}, "sampler_name", "nearest: sampler"),
    ],
    ids=str,
)
def test_what_is_wrong_with_steps_is_named(spec: ModelSpec, fields: dict[str, Any], param: str, words: str) -> None:
    error = draft_refused(spec, **fields)
    assert (error.status, error.param) == (400, param)
    assert words in error.message


def test_numbers_and_strings_are_the_same() -> None:
    numbers = {"seed": 7, "fps": 24, "guidance_scale": 1.5, "flow_shift": 3, "num_frames": 81, "n": 1, "priority": -2}
    numbers |= {"seconds": 4, "width": 64, "height": 96, "timeout_seconds": 60, "num_inference_steps": 5}
    call = read(CreateVideo, prompt="p", **numbers)
    assert read(CreateVideo, prompt="p", **{name: str(value) for name, value in numbers.items()}) == call
    assert {name: getattr(call, name) for name in numbers} == numbers
    assert read(CreateVideo, prompt="p", seed=7.0, seconds="4.0").seed == 7


def test_what_is_empty_in_a_form_is_left_out() -> None:
    names = CreateVideo.model_fields.keys() - {"prompt", "negative_prompt"}
    assert read(CreateVideo, prompt="p", **dict.fromkeys(names, "")) == read(CreateVideo, prompt="p")
    assert read(CreateVideo, prompt="p", **dict.fromkeys(names)) == read(CreateVideo, prompt="p")
    assert read(CreateVideo, prompt="p", negative_prompt="").negative_prompt == ""


@pytest.mark.parametrize("size", ["1280x704", "1280X704", " 1280 × 704 ", "1280*704", "01280x0704"])
def test_sizes(size: str) -> None:
    assert read(CreateVideo, prompt="p", size=size).width_height == (1280, 704)
    assert read(CreateVideo, prompt="p", size=size, width=1280).width_height == (1280, 704)


def test_one_answer_names_all_that_is_wrong() -> None:
    error = refused(
        CreateVideo,
        {
            "promt": "a bird",
            "seed": "x",
            "num_frames": True,
            "guidance_scale": "nan",
            "size": "big",
            "n": 2,
            "steps": 4,
            "priority": 11,
            "input_reference": {"url": "x"},
            "seconds": [],
        },
    )
    told = dict(part.split(": ", 1) for part in error.message.split("; ") if ": " in part)
    assert set(told) == {
        *("prompt", "priority", "seconds", "num_frames", "seed", "guidance_scale"),
        *("size", "n", "promt", "steps", "input_reference.url"),
    }
    assert error.param == "prompt"
    assert "nearest: prompt" in told["promt"]
    assert "nearest: num_inference_steps" in told["steps"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": {"a": "b"}}, "prompt"),
        ({"prompt": "p", "seed": "9" * 5000}, "seed"),
        ({"prompt": "p", "seed": 10**400}, "seed"),
        ({"prompt": "p", "seed": 1.5}, "seed"),
        ({"prompt": "p", "seed": False}, "seed"),
        ({"prompt": "p", "guidance_scale": "inf"}, "guidance_scale"),
        ({"prompt": "p", "guidance_scale": "1e999"}, "guidance_scale"),
        ({"prompt": "p", "seconds": 0}, "seconds"),
        ({"prompt": "p", "seconds": "-4"}, "seconds"),
        ({"prompt": "p", "seconds": 1e308}, "seconds"),
        ({"prompt": "p", "seconds": "nan"}, "seconds"),
        ({"prompt": "p", "size": "1280"}, "size"),
        ({"prompt": "p", "size": "-1x5"}, "size"),
        ({"prompt": "p", "size": "x" * 10_000}, "size"),
        ({"prompt": "p", "size": ["64", "64"]}, "size"),
        ({"prompt": "p", "size": "64x64", "width": 96}, "width"),
        ({"prompt": "p", "size": "64x64", "height": "96"}, "height"),
        ({"prompt": "p", "n": 0}, "n"),
        ({"prompt": "p", "timeout_seconds": 0}, "timeout_seconds"),
        ({"prompt": "p", "user": "u" * 1000}, "user"),
        ({"prompt": "p", "input_reference": ["x"]}, "input_reference"),
        ({"prompt": "p", "input_reference": {"image_url": {"url": "x"}}}, "input_reference.image_url"),
        ({"prompt": "p", "k" * 10**6: 1}, "k" * 80 + "..."),
    ],
)
def test_one_thing_wrong(fields: dict[str, Any], param: str) -> None:
    error = refused(CreateVideo, fields)
    assert error.param == param
    assert len(error.message) < 500


@pytest.mark.parametrize(
    "name", ["output_path", "save_path", "image_path", "lora_path", "output_file_name", "model_path", "image", "config"]
)
@pytest.mark.parametrize("model", [CreateVideo, RemixVideo, ExtendVideo])
def test_paths_of_the_server_are_unknown_fields(model: type[Call], name: str) -> None:
    error = refused(model, {"prompt": "p", "video": "video_1", name: "/etc/passwd"})
    assert f"{name}: is not a field of this call" in error.message


def test_only_what_a_call_has_is_suggested() -> None:
    assert "nearest: input_reference" in refused(CreateVideo, {"prompt": "p", "image": "x"}).message
    assert "nearest" not in refused(RemixVideo, {"prompt": "p", "image": "x"}).message
    for name in CreateVideo.model_fields:
        typo = name[:-1] + "_" if len(name) > 3 else f"{name}{name[-1]}"
        expected = difflib.get_close_matches(typo, CreateVideo.model_fields, 1)
        message = refused(CreateVideo, {"prompt": "p", typo: 1}).message
        assert not expected or f"{typo}: is not a field of this call (nearest: {expected[0]})" in message


def test_files_only_where_they_belong() -> None:
    picture = {"input_reference": b"x"}
    assert read(CreateVideo, prompt="p", files=picture).input_reference is None
    assert refused(RemixVideo, {"prompt": "p"}, picture).param == "input_reference"
    error = refused(CreateVideo, {}, {"prompt": b"", "input_reference": b"x"})
    assert error.message == "prompt: is sent as a file and is not one of this call's files"
    error = refused(ExtendVideo, {"prompt": "p"}, {"video": b""})
    assert error.param == "video"
    assert "cannot be uploaded" in error.message
    assert "is missing" not in error.message


def test_remix_and_extension() -> None:
    assert read(RemixVideo, prompt="p", user="u").user == "u"
    assert read(RemixVideo, prompt="p", seed="1").seed == 1
    assert refused(RemixVideo, {"prompt": "p", "fps": 1}).param == "fps"
    for video in ("video_1", {"id": "video_1"}):
        assert read(ExtendVideo, prompt="p", video=video, seconds="4").video.id == "video_1"
    for wrong in (None, "", 3, {}, {"id": 1}, {"id": "v", "x": 1}, ["v"]):
        assert str(refused(ExtendVideo, {"prompt": "p", "video": wrong}).param).split(".")[0] == "video"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([CreateVideo, RemixVideo, ExtendVideo]),
    st.dictionaries(st.sampled_from(sorted(CreateVideo.model_fields)) | st.text(max_size=10), JSON_VALUES, max_size=6),
    st.dictionaries(st.sampled_from(["input_reference", "video", "prompt", "x"]), st.just(b""), max_size=2),
)
def test_nothing_but_an_api_error_is_raised(model: type[Call], fields: dict[str, Any], files: dict[str, bytes]) -> None:
    try:
        parse(model, body(fields, files))
    except HttpError as error:
        shown = error.body()["error"]
        assert shown["code"] == "invalid_request" and shown["param"] is not None


@settings(max_examples=200, deadline=None)
@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=10)},
        optional={
            "seed": st.integers(),
            "width": st.integers(),
            "height": st.integers(),
            "num_frames": st.integers(),
            "fps": st.integers(),
            "num_inference_steps": st.integers(),
            "seconds": st.floats(0.001, 3600),
            "guidance_scale": st.floats(),
            "flow_shift": st.floats(),
            "layout": st.text(max_size=6) | st.sampled_from(["u1r2", "c2u1r1", "u0r1", "u1r9999999"]),
            "model": st.text(max_size=5),
            "webhook_url": st.text(max_size=9),
            "input_reference": st.text(max_size=30) | st.binary(max_size=30).map(data_url),
        },
    )
)
def test_a_draft_or_a_4xx(spec: ModelSpec, fields: dict[str, Any]) -> None:
    try:
        made = asyncio.run(to_draft(parse(CreateVideo, body(fields)), {}, Shelf(spec), NOBODY))
    except (HttpError, InvalidRequest, InvalidLayout) as error:
        answer = to_api_error(error)
        assert 400 <= answer.status < 500, answer.message
    else:
        made.request.check(spec, RequestLimits())


# From a call to a draft


def test_what_is_left_out_comes_from_the_defaults(spec: ModelSpec) -> None:
    made = draft(spec)
    assert (made.request.width, made.request.num_frames, made.request.fps) == (64, 9, 24)
    assert (made.priority, made.user, made.layout, made.request.image) == (0, None, None, None)
    made = draft(
        spec, size="96x64", seed="5", num_inference_steps=3, guidance_scale=1, flow_shift=2.5, negative_prompt="n",
        fps="8", num_frames=5, user="u", priority=-3, timeout_seconds=9, layout="c2u1r1", model="wan",
    )  # fmt: skip
    request = made.request
    assert (request.width, request.height, request.num_frames, request.fps) == (96, 64, 5, 8)
    assert (request.seed, request.num_inference_steps, request.guidance_scale) == (5, 3, 1)
    assert (request.flow_shift, request.negative_prompt) == (2.5, "n")
    assert (made.user, made.priority, made.timeout_seconds) == ("u", -3, 9)
    assert made.layout is not None
    assert made.layout.name == "c2u1r1"


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(5, 24, 121), ("4", 24, 97), (8, 24, 193), (12, 24, 289), (0.1, 30, 5), (0.01, 24, 1), (1, 1, 1), (1, 16, 17)],
)
def test_seconds_become_the_fewest_frames_that_last_as_long(
    spec: ModelSpec, seconds: Any, fps: int, frames: int
) -> None:
    assert frames_for(read(CreateVideo, prompt="p", seconds=seconds), fps, spec) == frames
    assert frames >= float(seconds) * fps - 1e-6
    assert frames == 1 or frames - 4 < float(seconds) * fps


def test_frames_win_over_seconds(spec: ModelSpec) -> None:
    assert draft(spec, seconds=4, num_frames=5).request.num_frames == 5
    assert draft(spec, seconds=1, fps=4).request.num_frames == 5
    assert draft(spec, seconds="0.3").request.num_frames == 9


def test_problems_are_in_the_words_of_the_call(spec: ModelSpec) -> None:
    error = draft_refused(spec, size="65x64", num_frames=80, seed=-2, fps=0)
    assert (error.status, error.param) == (400, "size")
    for told in ("size: width 65 is not", "num_frames: 80 is not 4k+1", "nearest: 81", "seed: -2", "fps: 0"):
        assert told in error.message
    assert draft_refused(spec, width=65).param == "width"
    assert draft_refused(spec, seconds=3600).param == "seconds"
    assert draft_refused(spec, seed=MAX_SEED, width=MAX_SEED, fps=MAX_SEED).param == "width"
    call = read(CreateVideo, prompt=" ")
    with pytest.raises(InvalidRequest, match="prompt: must not be empty"):
        asyncio.run(to_draft(call, {}, Shelf(spec), NOBODY))


def test_models_layouts_and_webhooks_that_are_not_here(spec: ModelSpec) -> None:
    error = draft_refused(spec, model="sora-2")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "'sora-2' is not served; wan is" in error.message
    error = draft_refused(spec, layout="r2")
    assert (error.status, error.code, error.param) == (400, "invalid_layout", "layout")
    error = draft_refused(spec, webhook_url="https://good.test/")
    assert (error.status, error.code, error.param) == (400, "webhook_url_refused", "webhook_url")

    hooks = Outbound(["*"], 1, 0, purpose="webhook_url", param="webhook_url", resolve=lambda host, port: ["10.0.0.1"])
    call = read(CreateVideo, prompt="p", webhook_url="https://good.test/")
    with pytest.raises(HttpError, match="not public"):
        asyncio.run(to_draft(call, {}, Shelf(spec), NOBODY, hooks))


# Pictures


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


def test_sizes_are_rounded_where_the_operator_wants_it(spec: ModelSpec) -> None:
    call = read(CreateVideo, prompt="p", size="1280x720")
    with pytest.raises(InvalidRequest, match="nearest: 704"):
        asyncio.run(to_draft(call, {}, Shelf(spec), NOBODY))
    made = asyncio.run(to_draft(call, {}, Shelf(spec, round_sizes=True), NOBODY))
    assert ((made.request.width, made.request.height), made.asked_size) == ((1280, 704), (1280, 720))


def test_a_seed_of_minus_one_is_drawn(spec: ModelSpec) -> None:
    seeds = {draft(spec, seed=seed).request.seed for seed in (-1, "-1", -1, None)}
    assert len(seeds) == 4 and min(seeds) >= 0


def test_nulls_are_left_out_whatever_they_are_called(spec: ModelSpec) -> None:
    picture = png()
    made = draft(spec, quality=None, input_reference={"image_url": data_url(picture), "file_id": None, "detail": None})
    assert made.request.image == picture
    assert "quality" in refused(CreateVideo, {"prompt": "p", "quality": ""}).message
    assert "prompt" in refused(CreateVideo, {"prompt": None}).message


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"seconds": "4"}, "4"),
        ({"seconds": 4.0}, "4"),
        ({"seconds": "0.333"}, "0.333"),
        ({"seconds": "4", "num_frames": 5}, None),
        ({}, None),
    ],
)
def test_seconds_are_kept_as_they_were_asked(spec: ModelSpec, fields: dict[str, Any], seconds: str | None) -> None:
    assert draft(spec, **fields).seconds == seconds


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
