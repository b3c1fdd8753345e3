"""The card of Wan2.1-T2V: its checkpoints, what a request may leave out, and the published numbers."""

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
)
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan.published import TRANSFORMER_1_3B, TRANSFORMER_14B, VAE_21
from ringlight.families.wan.work.text_encoder import UMT5_XXL
from ringlight.families.wan.work.transformer import TransformerSpec

NAME, KIND = "wan21_t2v", "Wan2.1-T2V"
PIPELINES = ("WanPipeline",)
LARGE_FROM = 2048  # channels: the small model has 1,536, the large one 5,120


def is_of_family(index: dict[str, Any]) -> bool:
    """Whether a `model_index.json` is of this family: one transformer, told one time for all tokens."""
    return is_index_of(index, PIPELINES)


def read(checkpoint: Checkpoint, index: dict[str, Any]) -> ModelSpec:
    """Read a checkpoint's JSON. Raises InvalidCheckpoint."""
    return read_wan(checkpoint, index, NAME, KIND, not_residual, takes_picture=False)


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another."""
    if not are_networks(configs):
        return None
    dim = configs["transformer"]["num_attention_heads"] * configs["transformer"]["attention_head_dim"]
    return documents_of(PIPELINES[0], configs, flow_shift=5.0 if dim >= LARGE_FROM else 3.0)


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests: five seconds, of the size that is advised for a model of this size."""
    usual = RequestDefaults(width=832, height=480, num_frames=81, fps=16)
    is_large = spec.transformer.inner_dim >= LARGE_FROM
    return msgspec.structs.replace(usual, width=1280, height=720) if is_large else usual


def _published(name: str, transformer: TransformerSpec, flow_shift: float) -> ModelSpec:
    return ModelSpec(
        family=NAME,
        name=name,
        transformer=transformer,
        vae=VAE_21,
        text_encoder=UMT5_XXL,
        scheduler=unipc(flow_shift),
        takes_picture=False,
    )


WAN21_T2V_1_3B = _published("Wan2.1-T2V-1.3B", TRANSFORMER_1_3B, flow_shift=3.0)
WAN21_T2V_14B = _published("Wan2.1-T2V-14B", TRANSFORMER_14B, flow_shift=5.0)

FAMILY = Family(
    name=NAME,
    kind=KIND,
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(WAN21_T2V_1_3B, WAN21_T2V_14B),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan21_t2v.demo",
    single_files=wan_files(documents),
    read_lora=read_wan_lora,
)
