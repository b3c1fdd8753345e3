"""Whole generations against diffusers: same weights, same seed, same video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image

from ringlight.core.picture import fit_picture
from ringlight.core.plan import JobPlan
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_model
from tests.oracle import load_oracle
from tests.ours import as_png, final_latents, frames, load_pipeline
from tests.quick import first_quick

PROMPT, NEGATIVE = "a violin player sings on a small stage", "blurry, low quality"
CASES = [
    (224, 32, 5, 3.5, True),
    (160, 96, 5, 5.0, False),
    (96, 160, 1, 5.0, False),
    (64, 32, 17, 1.0, False),
    (128, 96, 17, 5.0, True),
    (96, 96, 9, 0.0, True),
    (96, 64, 1, 5.0, True),
]


def make_request(spec: ModelSpec, image: bytes | None = None, **fields: Any) -> VideoRequest:
    given = {"negative_prompt": NEGATIVE, "num_inference_steps": 4, "seed": 7} | fields
    return RequestDefaults().complete(PROMPT, spec, image=image, **given)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "num_frames", "guidance", "with_image"), first_quick(CASES), ids=str)
def test_latents_and_frames_within_1e_4_of_diffusers(
    tiny: Path,
    spec: ModelSpec,
    photograph: Path,
    tmp_path: Path,
    width: int,
    height: int,
    num_frames: int,
    guidance: float,
    with_image: bool,
) -> None:
    picture = fit_picture(Image.open(photograph), width, height) if with_image else None
    request = make_request(
        spec,
        image=as_png(picture) if picture else None,
        width=width,
        height=height,
        num_frames=num_frames,
        guidance_scale=guidance,
    )
    theirs = load_oracle(tiny).latents(request, picture)
    pipeline = load_pipeline(tiny)
    assert (final_latents(pipeline, request, tmp_path) - theirs).abs().max() < 1e-4
    video = frames(pipeline, request, tmp_path)
    assert video.shape == (num_frames, height, width, 3)
    assert (video - load_oracle(tiny).decode(theirs)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("with_image", [False, True], ids=["t2v", "i2v"])
def test_bfloat16_is_no_further_from_float32_than_diffusers(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, with_image: bool
) -> None:
    picture = fit_picture(Image.open(photograph), 160, 96) if with_image else None
    image = as_png(picture) if picture else None
    request = make_request(spec, image=image, width=160, height=96, num_frames=9, guidance_scale=5.0)
    exact = load_oracle(tiny).latents(request, picture)
    theirs = load_oracle(tiny, torch.bfloat16).latents(request, picture)
    ours = final_latents(load_pipeline(tiny, torch.bfloat16), request, tmp_path)
    assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()


SCHEDULERS: dict[str, Any] = {
    "flow-match-euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm": DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=4.0),
    "unipc-order-3": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=7.0, solver_order=3
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_the_scheduler_is_the_one_that_the_checkpoint_names(
    tiny: Path, tmp_path: Path, spec: ModelSpec, scheduler: Any
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny, folder)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    request = make_request(read_model(folder), width=96, height=64, num_frames=5, num_inference_steps=6)
    assert request.flow_shift != 5.0
    theirs = load_oracle(folder).latents(request)
    assert (final_latents(load_pipeline(folder), request, tmp_path) - theirs).abs().max() < 1e-4


def test_flow_shift_of_the_request_overrides(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    request = make_request(spec, width=96, height=64, num_frames=5, flow_shift=2.5)
    theirs = load_oracle(tiny).latents(request)
    assert (final_latents(load_pipeline(tiny), request, tmp_path) - theirs).abs().max() < 1e-4


@pytest.mark.slow
def test_equal_timesteps_at_the_start_are_not_skipped(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """Timesteps are whole numbers; with a large shift and many steps the first two are both 999."""
    request = make_request(spec, width=32, height=32, num_frames=1, flow_shift=20.0, num_inference_steps=60)
    theirs = load_oracle(tiny).latents(request)
    assert (final_latents(load_pipeline(tiny), request, tmp_path) - theirs).abs().max() < 1e-4


def test_sharded_weights_give_the_same_video(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    from ringlight.families.wan22_ti2v.demo import DEMO

    DEMO.write(tmp_path / "sharded", "tiny", shard_bytes=2**20)
    assert len(list((tmp_path / "sharded" / "transformer").glob("*.safetensors"))) > 2
    request = make_request(spec, width=96, height=64, num_frames=5)
    sharded = final_latents(load_pipeline(tmp_path / "sharded"), request, tmp_path)
    assert torch.equal(sharded, final_latents(load_pipeline(tiny), request, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", first_quick([3, 1, 2, 8]))
def test_decoding_in_chunks_gives_the_same_frames(tiny: Path, spec: ModelSpec, tmp_path: Path, chunk: int) -> None:
    request = make_request(spec, width=96, height=64, num_frames=17)
    whole = frames(load_pipeline(tiny), request, tmp_path)
    assert (frames(load_pipeline(tiny), request, tmp_path, JobPlan(decode_chunk=chunk)) - whole).abs().max() < 2e-5
