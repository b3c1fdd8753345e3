"""Models and machines to plan for: the demo checkpoint's numbers without a checkpoint, and a short way to hardware."""

from __future__ import annotations

from typing import Any

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.wan.demo import TEXT_ENCODER
from ringlight.families.wan.work.text_encoder import TextEncoderSpec
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from ringlight.families.wan22_ti2v.demo import SIZES, TRANSFORMER, VAE
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.hardware import Hardware
from ringlight.planner.machine import Machine

REAL = WAN22_TI2V_5B


def demo_spec(size: str) -> ModelSpec:
    """The numbers of a demo checkpoint."""
    numbers = SIZES[size]
    text = TEXT_ENCODER | numbers["text_encoder"] | {"vocab_size": 300}
    transformer = TRANSFORMER | numbers["transformer"] | {"text_dim": text["d_model"]}
    return ModelSpec(
        family=REAL.family,
        name=size,
        transformer=msgspec.convert(transformer, TransformerSpec),
        vae=msgspec.convert(VAE | numbers["vae"], VaeSpec),
        text_encoder=msgspec.convert(text, TextEncoderSpec),
        scheduler=REAL.scheduler,
    )


def machine(card: str, link: str, **changes: Any) -> Machine:
    return Machine(hardware=Hardware(card=catalogue.card(card), link=catalogue.link(link)), **changes)


def request(spec: ModelSpec = REAL, **fields: Any) -> VideoRequest:
    """A request with prompts of ordinary length; what is left out is the model card's."""
    return RequestDefaults().complete("a cat " * 40, spec, negative_prompt="blurry " * 30, seed=0, **fields)


def work(spec: ModelSpec = REAL, **fields: Any) -> Work:
    """The work of such a request."""
    return Work.of(spec, request(spec, **fields))


def layout(name: str) -> ParallelLayout:
    return ParallelLayout.parse(name)
