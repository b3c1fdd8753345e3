"""The card of Wan2.2-TI2V: its checkpoints, what a request may leave out, and the published numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.request import RequestDefaults
from ringlight.families.family import Configs, Documents, Family
from ringlight.families.model import ModelSpec
from ringlight.families.wan.card import are_networks, documents_of, is_index_of, read_wan, unipc, wan_files
from ringlight.families.wan.lora import read_wan_lora
from ringlight.families.wan.work.text_encoder import UMT5_XXL
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec

NAME, KIND = "wan22_ti2v", "Wan2.2-TI2V"
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")


def is_of_family(index: dict[str, Any]) -> bool:
    """Whether a `model_index.json` is of this family: one transformer, told the time of each token."""
    return is_index_of(index, PIPELINES, times_tokens=True)


def read(checkpoint: Checkpoint, index: dict[str, Any]) -> ModelSpec:
    """Read a checkpoint's JSON. Raises InvalidCheckpoint."""
    return read_wan(checkpoint, index, NAME, KIND, _wrong, takes_picture=True)


def documents(configs: Configs, called: str) -> Documents | None:
    """JSON documents of a checkpoint of this family with these networks; None if they are of another."""
    if not are_networks(configs, is_residual=True):
        return None
    return documents_of(PIPELINES[0], configs, flow_shift=5.0, expand_timesteps=True)


def defaults(spec: ModelSpec) -> RequestDefaults:
    """Defaults of requests."""
    return RequestDefaults()


def _wrong(transformer: TransformerSpec, vae: VaeSpec) -> Iterable[str]:
    if not vae.is_residual:
        yield "vae: must be of the residual 2.2 kind"


WAN22_TI2V_5B = ModelSpec(
    family=NAME,
    name="Wan2.2-TI2V-5B",
    transformer=TransformerSpec(
        patch_size=(1, 2, 2),
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=14336,
        num_layers=30,
    ),
    vae=VaeSpec(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 48,  # the checkpoint's own are only needed to decode
        latents_std=[1.0] * 48,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        is_residual=True,
    ),
    text_encoder=UMT5_XXL,
    scheduler=unipc(5.0),
)

FAMILY = Family(
    name=NAME,
    kind=KIND,
    pipelines=PIPELINES,
    is_of_family=is_of_family,
    read=read,
    defaults=defaults,
    cards=(WAN22_TI2V_5B,),
    recipe="ringlight.families.wan.recipe:WanRecipe",
    demo="ringlight.families.wan22_ti2v.demo",
    trained_demo=Path(__file__).with_name("film"),
    single_files=wan_files(documents),
    read_lora=read_wan_lora,
)
