"""From a call to a draft that can be made, or to a 4xx that says all that is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlight.core.errors import InvalidLayout, InvalidRequest
from ringlight.core.request import RequestLimits
from ringlight.core.video_fields import MAX_SEED
from ringlight.families.model import ModelSpec
from ringlight.server.api.calls import CreateVideo, parse
from ringlight.server.api.drafts import frames_for, to_draft
from ringlight.server.http.http_error import HttpError, to_api_error
from ringlight.server.safety.outbound import Outbound
from tests.server.calling import NOBODY, Shelf, body, data_url, draft, draft_refused, read


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


def test_sizes_are_rounded_where_the_operator_wants_it(spec: ModelSpec) -> None:
    call = read(CreateVideo, prompt="p", size="1280x720")
    with pytest.raises(InvalidRequest, match="nearest: 704"):
        asyncio.run(to_draft(call, {}, Shelf(spec), NOBODY))
    made = asyncio.run(to_draft(call, {}, Shelf(spec, round_sizes=True), NOBODY))
    assert ((made.request.width, made.request.height), made.asked_size) == ((1280, 704), (1280, 720))


def test_a_seed_of_minus_one_is_drawn(spec: ModelSpec) -> None:
    seeds = {draft(spec, seed=seed).request.seed for seed in (-1, "-1", -1, None)}
    assert len(seeds) == 4 and min(seeds) >= 0


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
