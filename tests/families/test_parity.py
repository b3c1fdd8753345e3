"""Every model against diffusers on the same weights: a forward, the VAE, and whole videos; of one rank and of many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor

from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from tests.families.videos import fitted, latents_on, make_request
from tests.models.test_transformer import predict_both, relative
from tests.models.test_vae import decode
from tests.oracle import load_oracle
from tests.ours import as_png, final_latents, frames, load_pipeline

EXPERTS = {"num_inference_steps": 6, "guidance_scale": 4.0, "guidance_scale_2": 3.0}


class Video(NamedTuple):
    """A video of a demo checkpoint: the name of its fixture, how many pictures are given, and fields of the request."""

    model: str
    num_pictures: int = 0
    fields: Mapping[str, Any] = {}

    def pictures(self, photograph: Path) -> list[Image.Image]:
        """That it begins with, and that it ends with: the first one turned round."""
        first = fitted(photograph)
        return [first, first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)][: self.num_pictures]

    def request(self, spec: ModelSpec, photograph: Path) -> VideoRequest:
        given = dict(zip(("image", "last_image"), map(as_png, self.pictures(photograph)), strict=False))
        return make_request(spec, **{"num_frames": 5} | dict(self.fields) | given)


VIDEOS = {
    "T2V 2.1": Video("tiny21"),
    "I2V 2.1": Video("tiny_i2v21", 1),
    "FLF2V": Video("tiny_flf2v", 2),
    "T2V-A14B": Video("tiny_t2v_a14b", fields=EXPERTS),
    "I2V-A14B": Video("tiny_i2v_a14b", 1, EXPERTS),
}
MORE = {
    "T2V 2.1, one frame": Video("tiny21", fields={"num_frames": 1}),
    "T2V 2.1, longer, without guidance": Video("tiny21", fields={"num_frames": 17, "guidance_scale": 1.0}),
    "I2V 2.1, without guidance": Video("tiny_i2v21", 1, {"guidance_scale": 1.0}),
    "FLF2V, longer, without guidance": Video("tiny_flf2v", 2, {"num_frames": 9, "guidance_scale": 1.0}),
    # Whether there is guidance at all follows from the first.
    "T2V-A14B, longer, without guidance": Video("tiny_t2v_a14b", 0, EXPERTS | {"num_frames": 9, "guidance_scale": 1.0}),
    "I2V-A14B, one frame": Video("tiny_i2v_a14b", 1, EXPERTS | {"num_frames": 1}),
    "I2V-A14B, both ends": Video("tiny_i2v_a14b", 2, EXPERTS | {"num_frames": 9}),
}
TWO, THREE = ("u1r2", "u2r1", "c2u1r1"), ("u1r3", "u3r1")
ON_RANKS = {
    "T2V 2.1": (*TWO, *THREE, "u2r2"),
    "I2V 2.1, without guidance": TWO[:2],
    "FLF2V": (*TWO, *THREE),
    "T2V-A14B": TWO[-1:],
    "I2V-A14B, both ends": (*TWO, *THREE),
}
MADE: dict[tuple[Path, VideoRequest], Tensor] = {}
by_model = pytest.mark.parametrize("model", [each.model for each in VIDEOS.values()])


def folder_of(name: str, fixtures: pytest.FixtureRequest) -> Path:
    folder: Path = fixtures.getfixturevalue(name)
    return folder


def alone(folder: Path, asked: VideoRequest, scratch: Path) -> Tensor:
    """Final latents of one rank, made once a process."""
    if (folder, asked) not in MADE:
        MADE[folder, asked] = final_latents(load_pipeline(folder), asked, scratch)
    return MADE[folder, asked]


@by_model
def test_forward_within_2e_6_of_diffusers(request: pytest.FixtureRequest, model: str) -> None:
    """Of each expert, with channels of a condition and tokens of pictures where a model has them."""
    folder = folder_of(model, request)
    for expert in range(load_pipeline(folder).spec.num_experts):
        ours, theirs = predict_both(folder, (3, 6, 10), num_text=30, expert=expert)
        assert ours.shape == theirs.shape
        assert relative(ours - theirs, theirs) < 2e-6


@pytest.mark.slow
def test_frames_of_the_vae_within_2e_5_of_diffusers(tiny21: Path) -> None:
    latents = torch.randn(16, 4, 6, 10, generator=torch.Generator().manual_seed(2))
    ours = decode(load_pipeline(tiny21).vae, latents, [1, 2, 1])
    torch.testing.assert_close(ours, load_oracle(tiny21).decode(latents.unsqueeze(0)), rtol=0, atol=2e-5)


def test_latents_of_the_vae_within_2e_5_of_diffusers(tiny21: Path) -> None:
    video = torch.rand(9, 48, 64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = load_pipeline(tiny21).vae.encode(video)
    torch.testing.assert_close(ours, load_oracle(tiny21).encode(video), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "video",
    [
        *(pytest.param(each, id=name) for name, each in VIDEOS.items()),
        *(pytest.param(each, id=name, marks=pytest.mark.slow) for name, each in MORE.items()),
    ],
)
def test_latents_and_frames_within_1e_4_of_diffusers(
    request: pytest.FixtureRequest, tmp_path: Path, photograph: Path, video: Video
) -> None:
    folder = folder_of(video.model, request)
    pipeline, oracle = load_pipeline(folder), load_oracle(folder)
    asked = video.request(pipeline.spec, photograph)
    assert all(Work.of(pipeline.spec, asked).calls_by_expert)  # each expert has some of the steps
    theirs = oracle.latents(asked, *video.pictures(photograph))
    torch.testing.assert_close(alone(folder, asked, tmp_path), theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(frames(pipeline, asked, tmp_path), oracle.decode(theirs), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), [(name, each) for name, layouts in ON_RANKS.items() for each in layouts])
def test_many_ranks_make_the_video_of_one(
    request: pytest.FixtureRequest, tmp_path: Path, photograph: Path, name: str, layout: str
) -> None:
    video = (VIDEOS | MORE)[name]
    folder = folder_of(video.model, request)
    pipeline = load_pipeline(folder)
    asked = video.request(pipeline.spec, photograph)
    one = alone(folder, asked, tmp_path)
    torch.testing.assert_close(latents_on(pipeline, asked, layout, tmp_path), one, rtol=0, atol=2e-5)
