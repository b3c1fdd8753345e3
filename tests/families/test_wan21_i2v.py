"""Wan2.1-I2V: the picture's tokens beside the text, and its frames beside the latents; against diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestLimits
from ringlight.families.table import known_model, model_defaults, read_model
from ringlight.families.wan.networks.image_encoder import ImageEncoder
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan.work.image_encoder import CLIP_VIT_H
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.pipelines.stages.picture_tokens import picture_tokens
from tests.core.checkpoints import copy_json, edit
from tests.families.videos import fitted, make_request, png
from tests.oracle import load_oracle
from tests.ours import CPU, Silent, as_png, final_latents, load_pipeline
from tests.pipelines.test_placed import feed_late

SMALL, LARGE = known_model("Wan2.1-I2V-14B-480P"), known_model("Wan2.1-I2V-14B-720P")
META = torch.device("meta")


def test_the_built_in_cards_have_the_published_sizes() -> None:
    assert round(SMALL.transformer.layers.parameters / 1e9, 3) == 16.395
    assert round(CLIP_VIT_H.parameters / 1e6, 1) == 611.1  # of 630.8: without the last layer and the norm after it
    sizes = [(found.width, found.height) for found in map(model_defaults, (SMALL, LARGE))]
    assert sizes == [(832, 480), (1280, 720)]


def test_the_networks_have_the_layers_that_are_told() -> None:
    assert isinstance(SMALL.transformer, TransformerSpec)
    with META:
        network, encoder = WanTransformer(SMALL.transformer), ImageEncoder(CLIP_VIT_H)
    assert sum(each.numel() for each in network.parameters()) == SMALL.transformer.layers.parameters
    assert sum(each.numel() for each in encoder.parameters()) == CLIP_VIT_H.parameters
    made = [each for block in network.blocks for each in block.attn2.makes_keys]  # type: ignore[operator, union-attr]
    layers = SMALL.transformer.layers
    assert sum(each.numel() for each in made) == layers.num_blocks * layers.block.text_parameters
    assert layers.bytes(2) == 2 * layers.parameters + 2 * layers.float32_parameters


@pytest.mark.slow
def test_tokens_of_a_picture_are_those_of_diffusers(tiny_i2v21: Path, photograph: Path) -> None:
    """Of the picture as it was given, upright: its middle square."""
    encoder, oracle = load_pipeline(tiny_i2v21).networks.image_encoder, load_oracle(tiny_i2v21)
    assert encoder is not None
    for picture in (Image.open(photograph), fitted(photograph, (300, 230)).rotate(90, expand=True)):
        with torch.inference_mode():
            ours = picture_tokens([as_png(picture)], RequestLimits(), encoder, CPU, Silent())
            (theirs,) = oracle.i2v.encode_image(picture, CPU)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_without_the_tokens_it_is_another_video(
    tiny_i2v21: Path, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that parity is no accident."""
    pipeline = load_pipeline(tiny_i2v21)
    request = make_request(pipeline.spec, num_frames=5, image=png(photograph))
    right = final_latents(pipeline, request, tmp_path)
    monkeypatch.setattr("ringlight.families.wan.recipe.picture_tokens", lambda *_: None)
    assert (final_latents(pipeline, request, tmp_path) - right).abs().max() > 1e-3


@pytest.mark.slow
def test_wherever_weights_are_kept_the_latents_are_the_same(tiny_i2v21: Path, tmp_path: Path, photograph: Path) -> None:
    request = make_request(read_model(tiny_i2v21), num_frames=5, image=png(photograph))
    resident = final_latents(load_pipeline(tiny_i2v21), request, tmp_path)
    config = EngineConfig(model_path=str(tiny_i2v21), device="cpu")
    recipe = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
    lane = feed_late(recipe)
    made = final_latents(recipe, request, tmp_path, JobPlan(placement=Placement(streamed_blocks=1), take_turns=True))
    assert torch.equal(made, resident)
    report = recipe.weights_report()
    assert report is not None and report.brought_bytes["image_encoder"] > 0
    assert lane.live_bytes == 0


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("transformer/config.json", {"image_dim": None}, "image_dim"),
        ("transformer/config.json", {"added_kv_proj_dim": 64}, "added_kv_proj_dim"),
        ("transformer/config.json", {"in_channels": 16}, "in_channels"),
        ("image_encoder/config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("model_index.json", {"image_encoder": [None, None]}, "names no image_encoder"),
    ],
)
def test_what_would_run_wrongly_is_named(
    tiny_i2v21: Path, tmp_path: Path, file: str, changes: dict, named: str
) -> None:
    folder = copy_json(tiny_i2v21, tmp_path / "checkpoint")
    edit(folder, file, **changes)
    with pytest.raises(InvalidCheckpoint, match=named):
        read_model(folder)
