"""The card of Wan2.2-I2V-A14B: its checkpoints, what a request may leave out, and the published numbers."""

from __future__ import annotations

from typing import Any

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.request import RequestDefaults
from ringlight.families.family import Configs, Documents, Family
from ringlight.families.model import ModelSpec
from ringlight.families.wan.card import (
    are_networks,
    documents_of,
    is_index_of,
    not_residual,
    read_wan,
    unipc,
    wan_files,
    without_clip,
)
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan.published import TRANSFORMER_14B, VAE_21
from ringlight.families.wan.work.text_encoder import UMT5_XXL

NAME, KIND = "wan22_i2v_a14b", "Wan2.2-I2V-A14B"
PIPELINES = ("WanImageToVideoPipeline",)
FLOW_SHIFT = 5.0


def is_of_family(index: dict[str, Any]) -> bool:
    """Whether a `model_index.json` is of this family: two experts, told one time for all tokens."""
    return is_index_of(index, PIPELINES, has_experts=True)


def read(checkpoint: Checkpoint, index: dict[str, Any]) -> ModelSpec:
    """Read a checkpoint's JSON. Raises InvalidCheckpoint."""
    return read_wan(checkpoint, index, NAME, KIND, not_residual, takes_picture=True, sees_condition=True)


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another."""
    if not are_networks(configs, has_experts=True, sees_condition=True):
        return None
    boundary = WAN22_I2V_A14B.boundary_ratio
    return documents_of(PIPELINES[0], configs, FLOW_SHIFT, boundary_ratio=boundary, **without_clip())


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests, from Wan's own configuration (wan/configs/wan_i2v_A14B.py).

    The size follows the picture, at this many pixels.
    """
    return RequestDefaults(
        width=1280,
        height=720,
        num_frames=81,
        fps=16,
        num_inference_steps=40,
        guidance_scale=3.5,
        guidance_scale_2=3.5,
        flow_shift=FLOW_SHIFT,
    )


WAN22_I2V_A14B = ModelSpec(
    family=NAME,
    name="Wan2.2-I2V-A14B",
    transformer=msgspec.structs.replace(TRANSFORMER_14B, in_channels=36),
    vae=VAE_21,
    text_encoder=UMT5_XXL,
    scheduler=unipc(FLOW_SHIFT),
    needs_picture=True,
    takes_last_picture=True,
    boundary_ratio=0.9,
)

FAMILY = Family(
    name=NAME,
    kind=KIND,
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(WAN22_I2V_A14B,),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan22_i2v_a14b.demo",
    single_files=wan_files(documents),
    read_lora=read_wan_lora,
)
