"""Videos that begin and end with a picture: Wan2.1-FLF2V needs both, and Wan2.2-I2V-A14B may have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.families.table import known_model, model_defaults, read_model
from ringlight.server.collection.videos import without_bytes
from ringlight.worker.warming import smallest_requests
from tests.families.videos import fitted, latents_on, make_request, png
from tests.oracle import load_oracle
from tests.ours import as_png, final_latents, load_pipeline

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


@pytest.mark.parametrize("name", ["tiny_flf2v", pytest.param("tiny_i2v_a14b", marks=pytest.mark.slow)])
def test_latents_within_1e_4_of_diffusers(
    request: pytest.FixtureRequest, tmp_path: Path, photograph: Path, name: str
) -> None:
    folder: Path = request.getfixturevalue(name)
    pipeline = load_pipeline(folder)
    asked = make_request(pipeline.spec, image=png(photograph), last_image=as_png(turned(photograph)))
    theirs = load_oracle(folder).latents(asked, fitted(photograph), last_image=turned(photograph))
    torch.testing.assert_close(final_latents(pipeline, asked, tmp_path), theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["u1r2", "u2r1"])
def test_many_ranks_make_the_video_of_one(tiny_flf2v: Path, tmp_path: Path, photograph: Path, name: str) -> None:
    pipeline = load_pipeline(tiny_flf2v)
    asked = make_request(pipeline.spec, image=png(photograph), last_image=as_png(turned(photograph)))
    alone = final_latents(pipeline, asked, tmp_path)
    torch.testing.assert_close(latents_on(pipeline, asked, name, tmp_path), alone, rtol=0, atol=2e-5)


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
