"""The card of FastWan: its checkpoints, the three steps that it was distilled to, and the published numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.named_samplers import layered
from ringlight.core.request import RequestDefaults
from ringlight.families.family import Configs, Documents, Family
from ringlight.families.model import ModelSpec
from ringlight.families.wan.card import are_networks, documents_of, read_wan, wan_files
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.families.wan21_t2v.card import WAN21_T2V_1_3B, WAN21_T2V_14B
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B

NAME, KIND = "fastwan", "FastWan"
PIPELINES = ("WanDMDPipeline",)
SAMPLER = "fastwan-3step"


def is_of_family(index: dict[str, Any]) -> bool:
    """Whether a `model_index.json` is of this family: one transformer, of either Wan; its networks say of which."""
    return index.get("_class_name") in PIPELINES and index.get("boundary_ratio") is None


def read(checkpoint: Checkpoint, index: dict[str, Any]) -> ModelSpec:
    """Read a checkpoint's JSON. Raises InvalidCheckpoint."""
    spec = read_wan(checkpoint, index, NAME, KIND, _nothing_more, takes_picture=True)
    return msgspec.structs.replace(spec, takes_picture=is_of_wan22(spec))


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another."""
    is_residual = bool(configs["vae"]["is_residual"])
    if not are_networks(configs, is_residual):
        return None
    return documents_of(PIPELINES[0], configs, flow_shift=5.0 if is_residual else 3.0)


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests: the sampler with its fields, and the sizes of FastVideo's own examples.

    The scheduler in the checkpoint is the base model's, and is not what FastWan was distilled for.
    """
    usual = RequestDefaults() if is_of_wan22(spec) else RequestDefaults(width=832, height=448, num_frames=61, fps=16)
    return RequestDefaults(**layered(msgspec.structs.asdict(usual), {"sampler": SAMPLER}))


def is_of_wan22(spec: ModelSpec) -> bool:
    """Whether it is a TI2V, which its VAE tells: the index need not have `expand_timesteps`."""
    return isinstance(spec.vae, VaeSpec) and spec.vae.is_residual


def _nothing_more(transformer: TransformerSpec, vae: VaeSpec) -> Iterable[str]:
    return ()


def _published(name: str, base: ModelSpec) -> ModelSpec:
    return msgspec.structs.replace(base, family=NAME, name=name)


FAMILY = Family(
    name=NAME,
    kind=KIND,
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(
        _published("FastWan2.2-TI2V-5B", WAN22_TI2V_5B),
        _published("FastWan2.1-T2V-1.3B", WAN21_T2V_1_3B),
        _published("FastWan2.1-T2V-14B", WAN21_T2V_14B),
    ),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.fastwan.demo",
    single_files=wan_files(documents)._replace(must_be_named=True),
    read_lora=read_wan_lora,
)
