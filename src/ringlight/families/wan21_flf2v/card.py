"""The card of Wan2.1-FLF2V. Its checkpoints have the index of Wan2.1-I2V's, which reads them, and tells them apart by
the positions of two pictures' tokens in the transformer's JSON."""

from __future__ import annotations

from typing import Any

from ringlight.core.request import RequestDefaults
from ringlight.families.family import Family
from ringlight.families.model import ModelSpec
from ringlight.families.wan21_i2v.card import FLF2V, PIPELINES, published, read


def is_of_family(index: dict[str, Any]) -> bool:
    """An index alone tells nothing of it."""
    return False


def defaults(spec: ModelSpec) -> RequestDefaults:
    """What a request may leave out. The size follows the first picture, at this many pixels."""
    return RequestDefaults(width=1280, height=720, num_frames=81, fps=16, num_inference_steps=50)


FAMILY = Family(
    name=FLF2V,
    kind="Wan2.1-FLF2V",
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(published("Wan2.1-FLF2V-14B-720P", flow_shift=16.0, has_last=True),),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan21_flf2v.demo",
)
