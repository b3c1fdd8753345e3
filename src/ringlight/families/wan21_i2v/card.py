"""The card of Wan2.1-I2V: its checkpoints, what a request may leave out, and the published numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
)
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan.published import TRANSFORMER_14B, VAE_21
from ringlight.families.wan.work.image_encoder import CLIP_VIT_H
from ringlight.families.wan.work.text_encoder import UMT5_XXL
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec

NAME, KIND = "wan21_i2v", "Wan2.1-I2V"
FLF2V = "wan21_flf2v"  # the family of what ends with a picture too
PIPELINES = ("WanImageToVideoPipeline",)
SHIFT_480P, SHIFT_720P = 3.0, 5.0  # flow shifts of models of so many rows


def is_of_family(index: dict[str, Any]) -> bool:
    """Whether a `model_index.json` is of this family: pictures, and one transformer, told one time for all tokens."""
    return is_index_of(index, PIPELINES)


def read(checkpoint: Checkpoint, index: dict[str, Any]) -> ModelSpec:
    """Read a checkpoint's JSON, also of FLF2V. Raises InvalidCheckpoint."""
    spec = read_wan(checkpoint, index, NAME, KIND, _wrong, takes_picture=True, sees_condition=True)
    return msgspec.structs.replace(spec, family=FLF2V) if spec.needs_last_picture else spec


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another.

    It is of 480 rows unless the file's name says that it is of 720: nothing else does.
    """
    is_known = are_networks(configs, sees_condition=True, has_image_encoder=True)
    if not is_known or configs["transformer"]["pos_embed_seq_len"] is not None:
        return None
    flow_shift = SHIFT_720P if re.search("720p", called, re.IGNORECASE) else SHIFT_480P
    return documents_of(PIPELINES[0], configs, flow_shift)


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests.

    The size follows the picture, at as many pixels as the model was trained with, which its flow shift tells.
    """
    usual = RequestDefaults(width=1280, height=720, num_frames=81, fps=16, num_inference_steps=40)
    is_small = spec.scheduler.flow_shift < (SHIFT_480P + SHIFT_720P) / 2
    return msgspec.structs.replace(usual, width=832, height=480) if is_small else usual


def _wrong(transformer: TransformerSpec, vae: VaeSpec) -> Iterable[str]:
    yield from not_residual(transformer, vae)
    if transformer.image_dim is None:
        yield "transformer: has no image embeddings (image_dim), as Wan2.2 has it with a boundary_ratio"


def published(name: str, flow_shift: float, has_last: bool = False) -> ModelSpec:
    """A model of 14B; `has_last`: it ends with a picture too."""
    image = {"in_channels": 36, "image_dim": CLIP_VIT_H.hidden_size, "added_kv_proj_dim": TRANSFORMER_14B.inner_dim}
    if has_last:
        image["pos_embed_seq_len"] = 2 * CLIP_VIT_H.num_tokens
    return ModelSpec(
        family=FLF2V if has_last else NAME,
        name=name,
        transformer=msgspec.structs.replace(TRANSFORMER_14B, **image),
        vae=VAE_21,
        text_encoder=UMT5_XXL,
        scheduler=unipc(flow_shift),
        needs_picture=True,
        takes_last_picture=has_last,
        needs_last_picture=has_last,
        image_encoder=CLIP_VIT_H,
    )


FAMILY = Family(
    name=NAME,
    kind=KIND,
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(published("Wan2.1-I2V-14B-480P", SHIFT_480P), published("Wan2.1-I2V-14B-720P", SHIFT_720P)),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan21_i2v.demo",
    single_files=wan_files(documents),
    read_lora=read_wan_lora,
)
