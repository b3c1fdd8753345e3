"""Reader of a Wan checkpoint's JSON: the numbers of its networks, and whether they are ones that run here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ringlight.core.checkpoint import INDEX, Checkpoint
from ringlight.core.eight_bit import EightBit
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.hub import model_name
from ringlight.core.presence import trouble_with
from ringlight.core.scheduler import SchedulerSpec
from ringlight.core.stored_network import StoredNetwork, read_network
from ringlight.core.weights import TRANSFORMERS, is_named, network_files, networks_of
from ringlight.families.family import Configs, Documents, SingleFiles
from ringlight.families.model import ModelSpec
from ringlight.families.wan.headers import TIED_NAMES, in_our_names, kind_of, numbers_of
from ringlight.families.wan.work.image_encoder import ImageEncoderSpec
from ringlight.families.wan.work.text_encoder import TextEncoderSpec, held_in_layers
from ringlight.families.wan.work.transformer import TransformerSpec, held_in_blocks
from ringlight.families.wan.work.vae import VaeSpec

MAX_LAYERS = 1000
CONFIG = "config.json"  # of each network's folder
SCHEDULER = "scheduler/scheduler_config.json"
QUANTISED_AS = ("FP8", "fp8", "int8")  # what a quantization_config may say
OF_FLOWS = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
PROCESSOR, PROCESSOR_CONFIG = "image_processor", "image_processor/preprocessor_config.json"
CLASSES = {  # as `model_index.json` names them
    "image_encoder": ("transformers", "CLIPVisionModel"),
    PROCESSOR: ("transformers", "CLIPImageProcessor"),
    "scheduler": ("diffusers", "UniPCMultistepScheduler"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "transformer_2": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
}
OF_NO_CLIP = ("image_encoder", PROCESSOR)  # what an index of models for pictures names as none
IMAGE_PROCESSOR: dict[str, Any] = {  # of all published models with an image encoder
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}


Check = Callable[[TransformerSpec, VaeSpec], Iterable[str]]


def read_wan(
    checkpoint: Checkpoint,
    index: dict[str, Any],
    family: str,
    kind: str,
    check: Check,
    takes_picture: bool,
    sees_condition: bool = False,
) -> ModelSpec:
    """Read the JSON of a Wan checkpoint. Raises InvalidCheckpoint with the file and the remedy in one line.

    `kind` is what people call models of the family, `check` what it finds wrong beside what no Wan may have. A model
    that `sees_condition` has channels for it beside the latents, and makes no video without a picture.
    """
    for part in networks_of(checkpoint):
        _require_known_quantisation(checkpoint, part)
    transformer = _decode(checkpoint, "transformer", TransformerSpec)
    vae = _decode(checkpoint, "vae", VaeSpec)
    text_encoder = _decode(checkpoint, "text_encoder", TextEncoderSpec)
    boundary = index.get("boundary_ratio")
    wrong = [*_wrong_transformer(transformer, text_encoder), *_wrong_vae(vae), *check(transformer, vae)]
    wrong += _wrong_channels(transformer, vae, sees_condition)
    image_encoder = None
    if is_named(index, "image_encoder"):
        image_encoder = _decode(checkpoint, "image_encoder", ImageEncoderSpec)
    wrong += _wrong_image(transformer, image_encoder)
    if boundary is not None:
        wrong += _wrong_experts(checkpoint, index, transformer)
    if wrong:
        raise InvalidCheckpoint(f"{checkpoint.place}: not a {kind} checkpoint: " + "; ".join(wrong))
    if held := _held(checkpoint, transformer.num_layers, has_experts=boundary is not None):
        transformer = msgspec.structs.replace(transformer, held=held)
    if held := held_in_layers(read_stored(checkpoint, "text_encoder"), text_encoder.num_layers):
        text_encoder = msgspec.structs.replace(text_encoder, held=held)
    return ModelSpec(
        family=family,
        name=model_name(checkpoint.place, index.get("_name_or_path")),
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        scheduler=SchedulerSpec.of(checkpoint.json(SCHEDULER), checkpoint.path(SCHEDULER)),
        takes_picture=takes_picture,
        needs_picture=sees_condition,
        takes_last_picture=sees_condition and (image_encoder is None or transformer.pos_embed_seq_len is not None),
        needs_last_picture=transformer.pos_embed_seq_len is not None,
        image_encoder=image_encoder,
        boundary_ratio=None if boundary is None else float(boundary),
    )


def read_stored(checkpoint: Checkpoint, name: str) -> StoredNetwork:
    """Read a network's tensors by our names, as headers tell them; nothing if there are no files yet.

    Raises InvalidCheckpoint.
    """
    paths = network_files(checkpoint, name)
    are_there = not any(map(trouble_with, paths))
    return in_our_names(read_network(paths if are_there else [], TIED_NAMES))


def _held(checkpoint: Checkpoint, num_layers: int, has_experts: bool) -> dict[str, EightBit]:
    """Matrices that stay in eight bits: of experts, which share a plan, those that both have alike."""
    names = TRANSFORMERS if has_experts else TRANSFORMERS[:1]
    first, *others = (held_in_blocks(read_stored(checkpoint, name), num_layers) for name in names)
    return {name: kind for name, kind in first.items() if all(each.get(name) == kind for each in others)}


def wan_files(documents: Callable[[Configs, str], Documents | None]) -> SingleFiles:
    """Readers for Wan's networks in single files; `documents` are a family's for a model of them."""
    return SingleFiles(kind_of, in_our_names, numbers_of, documents, "ringlight.families.wan.convert")


def are_networks(
    configs: Configs,
    is_residual: bool = False,
    has_experts: bool = False,
    sees_condition: bool = False,
    has_image_encoder: bool = False,
) -> bool:
    """Whether a model has these networks and no others, with a VAE and transformers of this kind.

    The transformers must have the channels and the image branch for it.
    """
    named = {"transformer": True, "transformer_2": has_experts, "image_encoder": has_image_encoder}
    if set(configs) != {"vae", "text_encoder", *(name for name, has_it in named.items() if has_it)}:
        return False
    vae, transformers = configs["vae"], [configs[name] for name in TRANSFORMERS if name in configs]
    in_channels = vae["z_dim"] + (vae["scale_factor_temporal"] + vae["z_dim"] if sees_condition else 0)
    return vae["is_residual"] == is_residual and all(
        each["in_channels"] == in_channels and (each["image_dim"] is not None) == has_image_encoder
        for each in transformers
    )


def documents_of(pipeline: str, networks: Iterable[str], flow_shift: float, **index: Any) -> Documents:
    """Documents beside the networks of a published checkpoint.

    They are `model_index.json`, the scheduler, and with an image encoder its processor of pictures.
    """
    parts = ["scheduler", "tokenizer", *networks, *([PROCESSOR] if "image_encoder" in networks else [])]
    classes = {name: list(CLASSES[name]) for name in parts}
    scheduler = {"_class_name": CLASSES["scheduler"][1], **OF_FLOWS, "flow_shift": flow_shift}
    documents = {INDEX: {"_class_name": pipeline, **index, **classes}, SCHEDULER: scheduler}
    return documents | ({PROCESSOR_CONFIG: IMAGE_PROCESSOR} if PROCESSOR in parts else {})


def without_clip() -> dict[str, list[None]]:
    """Index entries of a model for pictures without an image encoder."""
    return {name: [None, None] for name in OF_NO_CLIP}


def is_index_of(
    index: Mapping[str, Any], pipelines: Collection[str], times_tokens: bool = False, has_experts: bool = False
) -> bool:
    """Whether a `model_index.json` is of models of these pipelines.

    They are given the time of each token or one for all, and have two experts or one transformer.
    """
    return (
        index.get("_class_name") in pipelines
        and bool(index.get("expand_timesteps")) == times_tokens
        and (index.get("boundary_ratio") is not None) == has_experts
    )


def not_residual(transformer: TransformerSpec, vae: VaeSpec) -> Iterable[str]:
    """Yield a problem if the VAE is not of the 2.1 kind."""
    if vae.is_residual:
        yield "vae: is of the residual 2.2 kind, whose checkpoints have expand_timesteps"


def unipc(flow_shift: float) -> SchedulerSpec:
    """The scheduler that published checkpoints name, as far as planning needs it."""
    return SchedulerSpec(
        config={}, class_name="UniPCMultistepScheduler", flow_shift=flow_shift, flow_shift_key="flow_shift"
    )


SpecType = TypeVar("SpecType", bound=msgspec.Struct)


def _require_known_quantisation(checkpoint: Checkpoint, part: str) -> None:
    """Raise InvalidCheckpoint for weights that a config.json says to be quantised in a way that is not read."""
    name = f"{part}/config.json"
    said = checkpoint.json(name).get("quantization_config")
    if isinstance(said, dict) and said.get("quant_algo", said.get("quant_method")) not in QUANTISED_AS:
        method = " ".join(str(said[key]) for key in ("quant_method", "quant_algo") if key in said)
        raise InvalidCheckpoint(
            f"{checkpoint.path(name)}: quantised by {method}, which is not read; what is: eight bits with a scale for "
            "each tensor or row, and files as ComfyUI and LightX2V have them (docs/checkpoints.md)"
        )


def _decode(checkpoint: Checkpoint, part: str, kind: type[SpecType]) -> SpecType:
    name = f"{part}/config.json"
    try:
        return msgspec.convert(checkpoint.json(name), kind)
    except msgspec.ValidationError as error:
        raise InvalidCheckpoint(f"{checkpoint.path(name)}: {error}") from None


def _wrong_transformer(transformer: TransformerSpec, text_encoder: TextEncoderSpec) -> Iterable[str]:
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


def _wrong_image(transformer: TransformerSpec, image_encoder: ImageEncoderSpec | None) -> Iterable[str]:
    if image_encoder is None:
        if transformer.image_dim is not None or transformer.added_kv_proj_dim is not None:
            yield f"transformer: image_dim and added_kv_proj_dim are of I2V, and {INDEX} names no image_encoder"
        return
    if transformer.image_dim != image_encoder.hidden_size:
        yield f"transformer: image_dim ({transformer.image_dim}) is not the image encoder's {image_encoder.hidden_size}"
    if transformer.added_kv_proj_dim != transformer.inner_dim:
        yield f"transformer: added_kv_proj_dim must be {transformer.inner_dim}, not {transformer.added_kv_proj_dim}"
    if transformer.pos_embed_seq_len not in (None, 2 * image_encoder.num_tokens):
        yield f"transformer: pos_embed_seq_len must be of two pictures, {2 * image_encoder.num_tokens}"
    if image_encoder.hidden_size % image_encoder.num_attention_heads or image_encoder.num_hidden_layers < 2:
        yield "image_encoder: needs two layers or more, and a hidden_size that its heads divide"


def _wrong_experts(checkpoint: Checkpoint, index: dict[str, Any], transformer: TransformerSpec) -> Iterable[str]:
    boundary = index["boundary_ratio"]
    if isinstance(boundary, bool) or not isinstance(boundary, (int, float)) or not 0 < boundary < 1:
        yield f"{INDEX}: boundary_ratio must lie between 0 and 1, not {boundary!r}"
    if not is_named(index, "transformer_2"):
        yield f"{INDEX}: names no transformer_2, the expert for what is below the boundary"
        return
    if _decode(checkpoint, "transformer_2", TransformerSpec) != transformer:
        yield f"transformer_2/{CONFIG}: has other numbers than transformer/{CONFIG}"


def _wrong_channels(transformer: TransformerSpec, vae: VaeSpec, sees_condition: bool) -> Iterable[str]:
    if transformer.out_channels != vae.z_dim:
        yield f"transformer: out_channels ({transformer.out_channels}) are not the vae's z_dim ({vae.z_dim})"
    beside = vae.scale_factor_temporal + vae.z_dim if sees_condition else 0  # a mask of frames, and their latents
    if transformer.in_channels != vae.z_dim + beside:
        of = f"z_dim, a mask of {vae.scale_factor_temporal} and again z_dim" if sees_condition else "z_dim"
        yield f"transformer: in_channels ({transformer.in_channels}) are not the vae's {of} ({vae.z_dim + beside})"


def _wrong_vae(vae: VaeSpec) -> Iterable[str]:
    if vae.attn_scales:
        yield "vae: must be without attn_scales"
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
