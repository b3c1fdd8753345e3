"""Card of Wan2.1-FLF2V.

Its checkpoints have the index of Wan2.1-I2V's, which reads them, and tells them apart by the positions of two pictures'
tokens in the transformer's JSON.
"""

from __future__ import annotations

from typing import Any

from ringlight.core.request import RequestDefaults
from ringlight.families.family import Configs, Documents, Family
from ringlight.families.model import ModelSpec
from ringlight.families.wan.card import are_networks, documents_of, wan_files
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan21_i2v.card import FLF2V, PIPELINES, published, read

FLOW_SHIFT = 16.0


def is_of_family(index: dict[str, Any]) -> bool:
    """Return False: this family shares its index with another, which tells them apart."""
    return False


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another."""
    is_known = are_networks(configs, sees_condition=True, has_image_encoder=True)
    if not is_known or configs["transformer"]["pos_embed_seq_len"] is None:
        return None
    return documents_of(PIPELINES[0], configs, FLOW_SHIFT)


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests. The size follows the first picture, at this many pixels."""
    return RequestDefaults(width=1280, height=720, num_frames=81, fps=16, num_inference_steps=50)


FAMILY = Family(
    name=FLF2V,
    kind="Wan2.1-FLF2V",
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(published("Wan2.1-FLF2V-14B-720P", flow_shift=FLOW_SHIFT, has_last=True),),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan21_flf2v.demo",
    single_files=wan_files(documents),
    read_lora=read_wan_lora,
)
