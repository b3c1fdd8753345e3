"""What a client sent is read as a call, or answered with a 400 that says all that is wrong."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlight.server.api.calls import Call, CreateVideo, ExtendVideo, RemixVideo, parse
from ringlight.server.http.http_error import HttpError
from tests.server.calling import body, read, refused


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
