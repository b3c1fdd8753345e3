"""VideoRequest.check: every problem at once, each with the nearest valid value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ringlight.core.errors import InvalidRequest, Problem
from ringlight.core.lora import Lora
from ringlight.core.plain import plain
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.video_fields import MAX_SEED, VIDEO_FIELDS
from ringlight.families.model import ModelSpec
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B as REAL

LIMITS = RequestLimits()
NO_LIMITS = RequestLimits(max_pixels=2**40)


def asked(**changes: Any) -> VideoRequest:
    """A valid request with some fields changed."""
    fields: dict[str, Any] = {
        "prompt": "a lighthouse in the fog",
        "negative_prompt": "blurry",
        "width": 1280,
        "height": 704,
        "num_frames": 97,
        "fps": 24,
        "num_inference_steps": 50,
        "guidance_scale": 5.0,
        "flow_shift": 5.0,
        "seed": 0,
    }
    return VideoRequest(**fields | changes)


def problems_of(request: VideoRequest, spec: ModelSpec, limits: RequestLimits = LIMITS) -> tuple[Problem, ...]:
    with pytest.raises(InvalidRequest) as caught:
        request.check(spec, limits)
    return caught.value.problems


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": ""},
        {"prompt": "灯台 🗼 in ‏ضباب‏ \N{COMBINING ACUTE ACCENT}"},
        {"width": 32, "height": 32, "num_frames": 1},
        {"num_frames": 1025, "num_inference_steps": 1000, "fps": 240, "seed": MAX_SEED},
        {"guidance_scale": 0.0, "flow_shift": 0.01, "fps": 1, "num_inference_steps": 1},
        {"guidance_scale": 100, "flow_shift": 100},
    ],
)
def test_valid_requests_pass(spec: ModelSpec, changes: dict[str, Any]) -> None:
    asked(**changes).check(spec, LIMITS)


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("height", 720, "704"),
        ("height", 721, "736"),
        ("height", 1, "32"),
        ("height", 0, "32"),
        ("height", -704, "32"),
        ("width", 1279, "1280"),
        ("width", 32 * 1024 + 32, "32768"),
        ("width", 10**12, "32768"),
        pytest.param("width", 10**400 + 1, "32768", id="width-too long for a float"),
        pytest.param("height", -(10**400) - 1, "32", id="height-too long for a float"),
        ("num_frames", 96, "97"),
        ("num_frames", 98, "97"),
        ("num_frames", 2, "1"),
        ("num_frames", 0, "1"),
        ("num_frames", -7, "1"),
        pytest.param("num_frames", -(10**400), "1", id="num_frames-too long for a float"),
        ("num_frames", 1026, "1025"),
        ("num_frames", 10**12, "1025"),
        ("num_inference_steps", 0, "1"),
        ("num_inference_steps", -5, "1"),
        ("num_inference_steps", 1001, "1000"),
        ("fps", 0, "1"),
        ("fps", 241, "240"),
        ("seed", -1, "0"),
        ("seed", 2**63, str(2**63 - 1)),
        ("guidance_scale", -0.5, "0"),
        ("guidance_scale", 100.5, "100"),
        ("flow_shift", 0.0, "0.01"),
        ("flow_shift", -3.0, "0.01"),
        ("flow_shift", 1e9, "100"),
    ],
)
def test_the_nearest_valid_value_is_named_and_is_valid(spec: ModelSpec, field: str, value: float, nearest: str) -> None:
    (problem,) = problems_of(asked(**{field: value}), spec, NO_LIMITS)
    assert (problem.field, problem.nearest) == (field, nearest)
    assert str(value) in str(problem) or plain(value) in str(problem)
    asked(**{field: type(value)(nearest)}).check(spec, NO_LIMITS)


@pytest.mark.parametrize("field", ["guidance_scale", "flow_shift"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(spec: ModelSpec, field: str, value: float) -> None:
    (problem,) = problems_of(asked(**{field: value}), spec)
    assert problem.field == field
    assert "finite" in problem.message


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u3000\u00a0"])
def test_an_empty_or_white_prompt_is_refused(spec: ModelSpec, prompt: str) -> None:
    (problem,) = problems_of(asked(prompt=prompt), spec)
    assert problem.field == "prompt"
    assert "empty" in problem.message


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud83d", "\udcff", "\udfff\ud800"])
def test_text_that_is_not_unicode_is_refused(spec: ModelSpec, field: str, text: str) -> None:
    (problem,) = problems_of(asked(**{field: text}), spec)
    assert problem.field == field
    str(problem).encode("utf-8")  # the message itself can be sent and printed


@pytest.mark.parametrize(
    ("limits", "changes", "field", "nearest"),
    [
        (RequestLimits(max_pixels=1280 * 704 - 1), {}, "size", "1248x672"),
        (RequestLimits(max_frames=96), {}, "num_frames", "93"),
        (RequestLimits(max_frames=20), {"num_frames": 18}, "num_frames", "17"),
        (RequestLimits(max_frames=1), {"num_frames": 5}, "num_frames", "1"),
        (RequestLimits(max_steps=49), {}, "num_inference_steps", "49"),
        (RequestLimits(max_prompt_chars=22), {}, "prompt", None),
        (RequestLimits(max_prompt_chars=23), {"negative_prompt": "x" * 24}, "negative_prompt", None),
    ],
)
def test_an_operators_limits_hold(
    spec: ModelSpec, limits: RequestLimits, changes: dict[str, Any], field: str, nearest: str | None
) -> None:
    (problem,) = problems_of(asked(**changes), spec, limits)
    assert (problem.field, problem.nearest) == (field, nearest)


def test_what_is_exactly_at_the_limits_passes(spec: ModelSpec) -> None:
    request = asked()
    limits = RequestLimits(max_pixels=1280 * 704, max_frames=97, max_steps=50, max_prompt_chars=len(request.prompt))
    request.check(spec, limits)


def test_every_problem_is_named_at_once(spec: ModelSpec) -> None:
    said = {field.name: field.rules for field in VIDEO_FIELDS}
    too_small = {name: rules.minimum - 1 for name, rules in said.items() if rules.minimum is not None}
    wrong_words = {name: "odd" for name, rules in said.items() if rules.choices}
    own: dict[str, Any] = {
        "prompt": " ",
        "negative_prompt": "\0",
        "width": 1281,
        "height": 720,
        "num_frames": 96,
        "fps": 0,
        "num_inference_steps": 0,
        "guidance_scale": math.nan,
        "guidance_scale_2": 3.0,
        "flow_shift": 0.0,
        "sampler": "eular",
        "sigmas": (0.5, 0.75),
        "seed": -1,
        "lora": (Lora(name="style", strength=0.0),),
        "last_image": b"picture",
    }
    with pytest.raises(InvalidRequest) as caught:
        asked(**too_small | wrong_words | own).check(spec, LIMITS)
    fields = {problem.field for problem in caught.value.problems}
    assert fields == too_small.keys() | wrong_words.keys() | own.keys()
    message = str(caught.value)
    assert "\n" not in message
    assert "height: 720 is not a positive multiple of 32 (nearest: 704)" in message
    assert "num_frames: 96 is not 4k+1 (1, 5, 9 ...) (nearest: 97)" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 256.0), ("height", "160"), ("num_frames", None), ("guidance_scale", "5"), ("prompt", 7), ("image", "x")],
)
def test_a_value_of_the_wrong_type_is_refused_at_the_door(spec: ModelSpec, field: str, value: object) -> None:
    """Past it, such a request could not be sent to a worker."""
    (problem,) = problems_of(asked(**{field: value}), spec)
    assert problem.field == field


def test_guidance_is_off_at_one_and_below() -> None:
    assert not asked(guidance_scale=1.0).uses_guidance
    assert not asked(guidance_scale=0.0).uses_guidance
    assert asked(guidance_scale=1.0001).uses_guidance


def test_a_workload_holds_a_pictures_hash_instead_of_its_bytes() -> None:
    workload = asked(image=b"abc").workload()
    assert workload["image"] == {
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "bytes": 3,
    }
    assert workload["height"] == 704
    assert asked().workload()["image"] is None


def test_a_request_shows_itself_without_its_picture() -> None:
    shown = repr(asked(image=bytes(10_000)))
    assert "image='<10000 bytes>'" in shown
    assert "prompt='a lighthouse in the fog'" in shown
    assert len(shown) < 400


def test_sequences_that_gpu_kernels_cannot_count_are_refused() -> None:
    """Keys and values of more than 349,525 tokens are a tensor of 2^31 elements."""
    asked(width=4096, height=2304, num_frames=145).check(REAL, LIMITS)
    (problem,) = problems_of(asked(width=4096, height=2304, num_frames=149), REAL)
    assert problem.field == "num_frames" and problem.nearest == "145" and "4096x2304" in problem.message
    asked(width=1280, height=704, num_frames=1025).check(REAL, LIMITS)


def test_frames_that_gpu_kernels_cannot_count_are_refused_whatever_the_operator_allows() -> None:
    (problem,) = problems_of(asked(width=8192, height=4096, num_frames=5), REAL, NO_LIMITS)
    assert problem.field == "size" and "limit is 16776960" in problem.message
