"""Demo checkpoints: random weights in the exact Diffusers layout of a Wan, deterministic from a seed.

Names and shapes come from the networks themselves, so a checkpoint written here is what they read. What a family's
models have of their own stands in its folder's `demo`, which runs as `python -m MODULE FOLDER SIZE SEED
SHARD_MEGABYTES`: this is what `ringlight demo-checkpoint` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ringlight.core.checkpoint import INDEX, Checkpoint
from ringlight.core.config import DEFAULTS_FILE
from ringlight.core.output import make_readable
from ringlight.core.weights import STEMS, TRANSFORMERS, is_named
from ringlight.families.table import read_model
from ringlight.families.wan.card import IMAGE_PROCESSOR, PROCESSOR_CONFIG, without_clip
from ringlight.families.wan.loaded import Network
from ringlight.families.wan.networks.image_encoder import ImageEncoder
from ringlight.families.wan.networks.text_encoder import TextEncoder, read_umt5
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.work.image_encoder import ImageEncoderSpec
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.models.loading import HasSlots, fill_random, materialise

TOKENIZER = "demo_tokenizer.json"
DIFFUSERS_VERSION = "0.42.1"
OUTPUT_GAIN = 0.6  # of the decoder's last convolution: few pixels of random weights reach the clamp

Numbers = Mapping[str, Mapping[str, Any]]  # of each network's config.json, by the network's folder


class DemoModel(msgspec.Struct, frozen=True, kw_only=True):
    """Demo checkpoints of a family.

    `sizes` hold what differs between them: "transformer", "vae", "text_encoder", and the "defaults" of requests; all
    else is as in the real checkpoint.

    `index`, `transformer`, `vae`, `scheduler` and `image_encoder` are the JSON of `model_index.json` and of each
    folder.
    """

    name: str
    sizes: Mapping[str, Numbers]
    index: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    image_encoder: Mapping[str, Any] = {}

    def write(self, folder: Path, size: str, seed: int = 0, shard_bytes: int = 0) -> None:
        """Write a checkpoint of a size into `folder`. Same seed, same bytes."""
        (folder / DEFAULTS_FILE).unlink(missing_ok=True)
        numbers = self.sizes[size]
        self.describe(folder, numbers, size)
        for position, (name, network) in enumerate(_networks(folder).items()):
            materialise(network, torch.device("cpu"), torch.float32)
            fill_random(network, seed * 10 + position)
            _save(folder / name, STEMS[name], _tensors(network), shard_bytes)
        _write_json(folder / DEFAULTS_FILE, {"defaults": numbers["defaults"]})  # last: where it stands, all is there

    def describe(self, folder: Path, numbers: Numbers, name: str) -> None:
        """Write all of a checkpoint but its weights: the JSON of these networks, and the demo's tokenizer.

        That is all that `--load-format dummy` needs.
        """
        _write_tokenizer(folder / "tokenizer")
        _write_json(folder / INDEX, {**self.index, "_name_or_path": f"{self.name}-{name}"})
        _write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        text = TEXT_ENCODER | {"vocab_size": _vocab_size()} | dict(numbers["text_encoder"])
        _write_json(folder / "text_encoder" / "config.json", text)
        transformer = {**self.transformer, **numbers["transformer"], "text_dim": text["d_model"]}
        if self.image_encoder:
            transformer["image_dim"] = self.image_encoder["hidden_size"]
            transformer["added_kv_proj_dim"] = transformer["num_attention_heads"] * transformer["attention_head_dim"]
            _write_json(folder / "image_encoder" / "config.json", self.image_encoder)
            _write_json(folder / PROCESSOR_CONFIG, IMAGE_PROCESSOR)
        for expert in (name for name in TRANSFORMERS if is_named(self.index, name)):
            _write_json(folder / expert / "config.json", transformer)
        _write_json(folder / "vae" / "config.json", {**self.vae, **numbers["vae"]})

    def run(self) -> None:
        """Write the checkpoint that the command line names."""
        folder, size, seed, shard_megabytes = sys.argv[1:]
        self.write(Path(folder), size, int(seed), int(shard_megabytes) * 2**20)


def ramp(low: float, high: float, count: int) -> list[float]:
    """Linear ramp of `count` numbers, as statistics of latents that differ from channel to channel."""
    return [round(low + (high - low) * i / (count - 1), 4) for i in range(count)]


def _networks(folder: Path) -> dict[str, Network]:
    """The networks of a checkpoint, on the meta device, by their folders."""
    spec = read_model(folder)
    assert isinstance(spec.transformer, TransformerSpec) and isinstance(spec.vae, VaeSpec)
    with torch.device("meta"):
        experts = [WanTransformer(spec.transformer) for _ in range(spec.num_experts)]
        vae = WanVae(spec.vae)
        encoder = TextEncoder(read_umt5(Checkpoint(place=folder), {}), tokenizer=None, max_tokens=spec.max_text_tokens)
    others: dict[str, Any] = dict(zip(TRANSFORMERS[1:], experts[1:], strict=False))
    if spec.image_encoder is not None:
        assert isinstance(spec.image_encoder, ImageEncoderSpec)
        with torch.device("meta"):
            others["image_encoder"] = ImageEncoder(spec.image_encoder, with_last=True)
    return {TRANSFORMERS[0]: experts[0], "vae": vae, "text_encoder": encoder, **others}


def _tensors(network: HasSlots) -> dict[str, Tensor]:
    tensors = {name: slot.contiguous() for name, slot in network.checkpoint_slots().items()}
    if "decoder.conv_out.weight" in tensors:
        tensors["decoder.conv_out.weight"] = tensors["decoder.conv_out.weight"] * OUTPUT_GAIN
    return {name: tensors[name].clone() for name in sorted(tensors)}


def _save(folder: Path, stem: str, tensors: dict[str, Tensor], shard_bytes: int) -> None:
    """Save one file, or shards of at most `shard_bytes` (a larger tensor has one of its own) with an index.

    Takes the place of what was there: an index of old shards would be read before a new single file.
    """
    for old in folder.glob(f"{stem}*.safetensors*"):
        old.unlink()
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        used = sum(other.nbytes for other in shards[-1].values())
        if shard_bytes and shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        _save_file(shards[0], folder / f"{stem}.safetensors")
        return
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _save_file(shard, folder / name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    make_readable(path)


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(files("ringlight.families.wan").joinpath(TOKENIZER).read_bytes())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    _write_json(folder / "tokenizer_config.json", config | special | {"additional_special_tokens": []})


def _vocab_size() -> int:
    encoded = files("ringlight.families.wan").joinpath(TOKENIZER).read_text(encoding="utf-8")
    size: int = Tokenizer.from_str(encoded).get_vocab_size()
    return size


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


TEXT_ENCODER = {
    "architectures": ["UMT5EncoderModel"],
    "classifier_dropout": 0.0,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "umt5",
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "scalable_attention": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "disable_corrector": [],
    "dynamic_thresholding_ratio": 0.995,
    "final_sigmas_type": "zero",
    "flow_shift": 5.0,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_p": None,
    "solver_type": "bh2",
    "steps_offset": 0,
    "thresholding": False,
    "time_shift_type": "exponential",
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": True,
    "use_karras_sigmas": False,
}

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "WanPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}

TRANSFORMER: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": DIFFUSERS_VERSION,
    "added_kv_proj_dim": None,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "freq_dim": 256,
    "image_dim": None,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
}

OF_PICTURES: dict[str, Any] = {  # of an index; models of Wan2.1 name the other two networks
    "_class_name": "WanImageToVideoPipeline",
    **without_clip(),
}

EXPERTS: dict[str, Any] = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}  # of an index, with a boundary

IMAGE_ENCODER: dict[str, Any] = {
    "architectures": ["CLIPVisionModel"],
    "attention_dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 64,
    "image_size": 224,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 4,
    "patch_size": 14,
}

SIZES_21: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "transformer": {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": 3},
        "vae": {"base_dim": 16},
        "text_encoder": {"d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "num_layers": 2},
        "defaults": {"width": 128, "height": 80, "num_frames": 17, "num_inference_steps": 8, "fps": 16},
    },
    "small": {
        "transformer": {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 6},
        "vae": {"base_dim": 32},
        "text_encoder": {"d_model": 256, "d_ff": 1024, "num_heads": 8, "d_kv": 32, "num_layers": 6},
        "defaults": {"width": 256, "height": 160, "num_frames": 29, "num_inference_steps": 10, "fps": 16},
    },
}

# As the published files are: in_channels, is_residual, patch_size and scales are left to their defaults.
VAE_21: dict[str, Any] = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": DIFFUSERS_VERSION,
    "attn_scales": [],
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": ramp(-0.4, 0.4, 16),
    "latents_std": ramp(0.5, 1.5, 16),
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
