"""Headers of a Wan network's files: which network it is, its names, and the numbers of its config.json."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.foreign import CLIP, REPLACEMENTS
from ringlight.core.presence import listed
from ringlight.core.stored_network import Shape, StoredNetwork
from ringlight.families.wan.original import NameTable, text_encoder_names, transformer_names, vae_names

# The token table stands under two names in some checkpoints; it is one tensor.
TABLE = "shared.weight"
TIED_NAMES = {"encoder.embed_tokens.weight": TABLE}
ORIGINAL = "original names"
WITHOUT_PREFIX = "names of transformers 5"
HEAD_DIM = 128  # of every published transformer: headers do not tell
CLIP_HEAD_DIM = 80  # of the image encoder, likewise
# A tensor of each network that no other has, by its name as ours and as another's: the original's, and for the image
# encoder that of transformers 5. A T5 that is no UMT5 has a bias of positions in its first layer alone.
MARKS = {
    "transformer": ("condition_embedder.time_proj.weight", "time_projection.1.weight"),
    "vae": ("post_quant_conv.weight", "decoder.middle.0.residual.0.gamma"),
    "text_encoder": (
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        "blocks.0.pos_embedding.embedding.weight",
    ),
    "image_encoder": ("vision_model.embeddings.class_embedding", "embeddings.class_embedding"),
}
VISION = "vision_model."  # in front of all names of an image encoder
PROJECTION = "visual_projection.weight"  # into the space of texts, which no Wan needs
OPEN_CLIP = "visual.cls_embedding"
OTHERS = {  # what some relatives have beside the blocks of a Wan, which is not run
    "vace_": "VACE",
    "motion_encoder.": "Animate",
    "face_encoder.": "Animate",
    "casual_audio_encoder.": "S2V",
}
# Of latents, by their channels: the VAE of Wan2.1, and that of Wan2.2-TI2V.
# fmt: off
LATENTS_MEAN = {
    16: [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
         0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921],
    48: [-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
         -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
         -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
         -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
         -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
         0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667],
}
LATENTS_STD = {
    16: [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
         3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160],
    48: [0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
         0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
         0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
         0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
         0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
         0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744],
}
# fmt: on


def kind_of(stored: StoredNetwork) -> str | None:
    """Kind of a Wan network by its tensors, as its folder's name; None if it is none.

    Raises InvalidCheckpoint for one that is known and cannot be read.
    """
    if OPEN_CLIP in stored.tensors:
        instead = REPLACEMENTS[CLIP]
        raise InvalidCheckpoint(
            f"{stored.tensors[OPEN_CLIP].path}: an image encoder in the names of open-clip (visual...), which is not "
            f"read; take {instead}"
        )
    return next((kind for kind, marks in MARKS.items() if any(mark in stored.tensors for mark in marks)), None)


def in_our_names(stored: StoredNetwork) -> StoredNetwork:
    """Rename a network's tensors to the names of diffusers and transformers.

    Raises InvalidCheckpoint for a related network that is not run, and for mixed names.
    """
    kind = kind_of(stored)
    for start, model in OTHERS.items():
        if kind == "transformer" and any(name.startswith(start) for name in stored.tensors):
            path = next(iter(stored.tensors.values())).path
            raise InvalidCheckpoint(f"{path}: is of {model} ({start}...), which Ringlight does not run")
    if kind == "image_encoder":
        stored = StoredNetwork(
            tensors={name: tensor for name, tensor in stored.tensors.items() if name != PROJECTION}, told=stored.told
        )
    if kind is None or MARKS[kind][1] not in stored.tensors:
        return stored
    if kind == "image_encoder":
        return stored.renamed(lambda name: f"{VISION}{name}", WITHOUT_PREFIX)
    return stored.renamed(_names_of(kind, stored.tensors).ours, ORIGINAL)


def numbers_of(kind: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The config.json of a network, as far as its headers tell; for all else as the published ones are.

    `shapes` are in our names. Raises InvalidCheckpoint where tensors are not there, or not of a Wan's shape.
    """
    try:
        return NUMBERS[kind](shapes)
    except (KeyError, IndexError, ValueError) as error:
        lacking = listed([str(error.args[0])]) if isinstance(error, KeyError) else "a tensor of the right shape"
        raise InvalidCheckpoint(f"{kind}: {len(shapes)} tensors, and no {lacking} among them") from None


def _names_of(kind: str, names: Iterable[str]) -> NameTable:
    names = list(names)
    if kind == "vae":
        is_residual = _count(names, r"decoder\.upsamples\.\d+\.upsamples\.(\d+)\.") > 0
        if is_residual:
            num_blocks = _count(names, r"encoder\.downsamples\.0\.downsamples\.(\d+)\.residual\.")
            return vae_names(_count(names, r"decoder\.upsamples\.(\d+)\."), num_blocks, is_residual)
        samplers = [int(each) for each in _matches(names, r"encoder\.downsamples\.(\d+)\.resample\.")]
        return vae_names(len(samplers) + 1, min(samplers, default=0), is_residual)
    num_blocks = _count(names, r"blocks\.(\d+)\.")
    return transformer_names(num_blocks) if kind == "transformer" else text_encoder_names(num_blocks)


def _transformer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    patch = shapes["patch_embedding.weight"]
    dim, in_channels, patch_size = patch[0], patch[1], patch[2:]
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(patch_size),
        "num_attention_heads": max(1, dim // HEAD_DIM),
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch_size),
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "qk_norm": "rms_norm_across_heads" if "blocks.0.attn1.norm_q.weight" in shapes else None,
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
        **_image_branch(shapes),
    }


def _image_branch(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    norm, keys = "condition_embedder.image_embedder.norm1.weight", "blocks.0.attn2.add_k_proj.weight"
    position = shapes.get("condition_embedder.image_embedder.pos_embed")
    return {
        "image_dim": shapes[norm][0] if norm in shapes else None,
        "added_kv_proj_dim": shapes[keys][1] if keys in shapes else None,
        "pos_embed_seq_len": None if position is None else position[1],
    }


def _vae(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    z_dim, base_dim = shapes["post_quant_conv.weight"][0], shapes["encoder.conv_in.weight"][0]
    is_residual = any(".downsampler." in name for name in shapes)
    samplers = _samplers(shapes, is_residual)
    num_blocks = _blocks_of_a_level(shapes, is_residual)
    in_channels = shapes["encoder.conv_in.weight"][1]
    patch = math.isqrt(max(1, in_channels // 3))
    decoder_dim = shapes["decoder.conv_out.weight"][1]
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": base_dim,
        "decoder_base_dim": None if decoder_dim == base_dim else decoder_dim,
        "z_dim": z_dim,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": num_blocks,
        "attn_scales": [],
        "temperal_downsample": samplers,
        "latents_mean": LATENTS_MEAN.get(z_dim, []),
        "latents_std": LATENTS_STD.get(z_dim, []),
        "is_residual": is_residual,
        "in_channels": in_channels,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": 2 ** sum(samplers),
        "scale_factor_spatial": patch * 2 ** len(samplers),
    }


def _samplers(shapes: Mapping[str, Shape], is_residual: bool) -> list[bool]:
    """Flags, for each level of the encoder but the last, whether it halves the frames."""
    form = r"encoder\.down_blocks\.(\d+)\." + (r"downsampler\." if is_residual else "")
    places = sorted(int(each) for each in set(_matches(shapes, form + r"resample\.")))
    in_time = {int(each) for each in _matches(shapes, form + r"time_conv\.")}
    return [place in in_time for place in places]


def _blocks_of_a_level(shapes: Mapping[str, Shape], is_residual: bool) -> int:
    if is_residual:
        return _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
    return min((int(each) for each in _matches(shapes, r"encoder\.down_blocks\.(\d+)\.resample\.")), default=0)


def _text_encoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    vocab_size, d_model = shapes[TABLE]
    attention, gated = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    num_buckets, num_heads = shapes[f"{attention}.relative_attention_bias.weight"]
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "d_model": d_model,
        "d_ff": shapes[gated][0],
        "d_kv": shapes[f"{attention}.q.weight"][0] // num_heads,
        "num_heads": num_heads,
        "num_layers": _count(shapes, r"encoder\.block\.(\d+)\."),
        "vocab_size": vocab_size,
        "relative_attention_num_buckets": num_buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def _image_encoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    dim, num_channels, patch_size, _ = shapes[f"{VISION}embeddings.patch_embedding.weight"]
    num_tokens, _ = shapes[f"{VISION}embeddings.position_embedding.weight"]
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": dim,
        "intermediate_size": shapes[f"{VISION}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"vision_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, dim // CLIP_HEAD_DIM),
        "num_channels": num_channels,
        "patch_size": patch_size,
        "image_size": patch_size * math.isqrt(num_tokens - 1),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


NUMBERS: dict[str, Callable[[Mapping[str, Shape]], dict[str, Any]]] = {
    "transformer": _transformer,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
}


def _matches(names: Iterable[str], form: str) -> list[str]:
    return [match[1] for name in names if (match := re.match(form, name))]


def _count(names: Iterable[str], form: str) -> int:
    """Count of numbered things, from the highest number in names, which begin at 0."""
    return max((int(each) + 1 for each in _matches(names, form)), default=0)
