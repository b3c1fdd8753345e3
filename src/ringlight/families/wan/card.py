"""What the JSON of a Wan checkpoint says: the numbers of its networks, and whether they are ones that run here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.hub import model_name
from ringlight.core.presence import read_json
from ringlight.core.scheduler import SchedulerSpec
from ringlight.families.model import ModelSpec
from ringlight.families.wan.work.text_encoder import TextEncoderSpec
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec

MAX_LAYERS = 1000


Check = Callable[[TransformerSpec, VaeSpec], Iterable[str]]


def read_wan(
    folder: Path, index: dict[str, Any], family: str, kind: str, check: Check, takes_picture: bool
) -> ModelSpec:
    """Read the JSON of a Wan checkpoint. Raises InvalidCheckpoint with the file and the remedy in one line.

    `kind` is what people call models of the family, `check` what it finds wrong beside what no Wan may have.
    """
    transformer = _decode(folder / "transformer" / "config.json", TransformerSpec)
    vae = _decode(folder / "vae" / "config.json", VaeSpec)
    text_encoder = _decode(folder / "text_encoder" / "config.json", TextEncoderSpec)
    wrong = [*_wrong_transformer(transformer, text_encoder), *_wrong_vae(transformer, vae), *check(transformer, vae)]
    if wrong:
        raise InvalidCheckpoint(f"{folder}: not a {kind} checkpoint: " + "; ".join(wrong))
    return ModelSpec(
        family=family,
        name=model_name(folder, index.get("_name_or_path")),
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        scheduler=SchedulerSpec.read(folder / "scheduler" / "scheduler_config.json"),
        takes_picture=takes_picture,
    )


def unipc(flow_shift: float) -> SchedulerSpec:
    """The scheduler that published checkpoints name, as far as planning needs it."""
    return SchedulerSpec(
        config={}, class_name="UniPCMultistepScheduler", flow_shift=flow_shift, flow_shift_key="flow_shift"
    )


SpecType = TypeVar("SpecType", bound=msgspec.Struct)


def _decode(path: Path, kind: type[SpecType]) -> SpecType:
    try:
        return msgspec.convert(read_json(path), kind)
    except msgspec.ValidationError as error:
        raise InvalidCheckpoint(f"{path}: {error}") from None


def _wrong_transformer(transformer: TransformerSpec, text_encoder: TextEncoderSpec) -> Iterable[str]:
    if transformer.image_dim is not None or transformer.added_kv_proj_dim is not None:
        yield "transformer: image embeddings (image_dim, added_kv_proj_dim) are of Wan2.1 I2V"
    if transformer.qk_norm != "rms_norm_across_heads":
        yield f"transformer: qk_norm must be rms_norm_across_heads, not {transformer.qk_norm}"
    if not transformer.cross_attn_norm:
        yield "transformer: cross_attn_norm must be true"
    if transformer.patch_size[0] != 1:
        yield f"transformer: patch_size must be 1 in time, not {transformer.patch_size[0]}"
    if transformer.text_dim != text_encoder.d_model:
        yield f"transformer: text_dim ({transformer.text_dim}) is not the text encoder's {text_encoder.d_model}"
    if transformer.attention_head_dim % 2 or transformer.freq_dim % 2:
        yield "transformer: attention_head_dim and freq_dim must be even"
    if transformer.num_layers > MAX_LAYERS:
        yield f"transformer: more than {MAX_LAYERS} layers"


def _wrong_vae(transformer: TransformerSpec, vae: VaeSpec) -> Iterable[str]:
    if vae.attn_scales:
        yield "vae: must be without attn_scales"
    if transformer.in_channels != vae.z_dim or transformer.out_channels != vae.z_dim:
        yield f"transformer channels ({transformer.in_channels}) differ from the vae's z_dim ({vae.z_dim})"
    if not len(vae.latents_mean) == len(vae.latents_std) == vae.z_dim:
        yield f"vae: latents_mean and latents_std must have z_dim ({vae.z_dim}) numbers"
    if max(vae.num_res_blocks, len(vae.dim_mult)) > MAX_LAYERS:
        yield f"vae: more than {MAX_LAYERS} layers"
    if vae.in_channels != 3 * vae.patch**2 or vae.out_channels != vae.in_channels:
        yield f"vae: in_channels and out_channels must be 3 x patch_size^2 ({3 * vae.patch**2})"
    if vae.scale_factor_spatial != vae.patch * 2 ** (len(vae.dim_mult) - 1):
        yield f"vae: scale_factor_spatial ({vae.scale_factor_spatial}) does not follow from dim_mult"
    if vae.scale_factor_temporal != 2 ** sum(vae.temperal_downsample):
        yield f"vae: scale_factor_temporal ({vae.scale_factor_temporal}) does not follow from its downsampling"
    if len(vae.temperal_downsample) != len(vae.dim_mult) - 1:
        yield "vae: temperal_downsample must be one shorter than dim_mult"
    if any(a < b for a, b in zip(vae.dim_mult[1:], vae.dim_mult, strict=False)):
        yield "vae: dim_mult must not fall"
