"""Demo checkpoints: random weights in the exact Diffusers layout of Wan2.2-TI2V, deterministic from a seed.

Names and shapes come from the networks themselves, so a checkpoint written here is what they read. Run as
`python -m ringlight.models.wan.demo FOLDER SIZE SEED SHARD_MEGABYTES`, which is what `ringlight demo-checkpoint` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ringlight.core.config import DEFAULTS_FILE, DEMO_NAME
from ringlight.core.output import make_readable
from ringlight.core.spec import ModelSpec
from ringlight.core.weights import STEMS
from ringlight.models.wan.checkpoint import HasSlots, fill_random, materialise
from ringlight.models.wan.text_encoder import TextEncoder
from ringlight.models.wan.transformer import WanTransformer
from ringlight.models.wan.vae import WanVae

TOKENIZER = "demo_tokenizer.json"
DIFFUSERS_VERSION = "0.42.1"
OUTPUT_GAIN = 0.6  # of the decoder's last convolution: few pixels of random weights reach the clamp

# What differs between the sizes; everything else is as in the real checkpoint.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "transformer": {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": 3},
        "vae": {"base_dim": 16, "decoder_base_dim": 16},
        "text_encoder": {"d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "num_layers": 2},
        "defaults": {"width": 256, "height": 160, "num_frames": 17, "num_inference_steps": 8},
    },
    "small": {
        "transformer": {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 6},
        "vae": {"base_dim": 32, "decoder_base_dim": 48},
        "text_encoder": {"d_model": 256, "d_ff": 1024, "num_heads": 8, "d_kv": 32, "num_layers": 6},
        "defaults": {"width": 512, "height": 320, "num_frames": 29, "num_inference_steps": 10},
    },
}


def write_demo_checkpoint(folder: Path, size: str, seed: int = 0, shard_bytes: int = 0) -> None:
    """Write a checkpoint of a size ("tiny" or "small") into `folder`. Same seed, same bytes."""
    (folder / DEFAULTS_FILE).unlink(missing_ok=True)
    numbers = SIZES[size]
    write_description(folder, numbers, size)
    spec = ModelSpec.read(folder)
    with torch.device("meta"):
        transformer, vae = WanTransformer(spec.transformer), WanVae(spec.vae)
        encoder = TextEncoder(folder / "text_encoder", tokenizer=None, max_tokens=spec.max_text_tokens)
    for position, (name, network) in enumerate(
        {"transformer": transformer, "vae": vae, "text_encoder": encoder}.items()
    ):
        assert isinstance(network, (WanTransformer, WanVae, TextEncoder))
        materialise(network, torch.device("cpu"), torch.float32)
        fill_random(network, seed * 10 + position)
        _save(folder / name, STEMS[name], _tensors(network), shard_bytes)
    _write_json(folder / DEFAULTS_FILE, {"defaults": numbers["defaults"]})  # last: where it stands, all is there


def write_description(folder: Path, numbers: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Write all of a checkpoint but its weights: the JSON of networks with these numbers, and the demo's tokenizer.
    It is all that `--load-format dummy` needs."""
    _write_tokenizer(folder / "tokenizer")
    _write_json(folder / "model_index.json", MODEL_INDEX | {"_name_or_path": f"{DEMO_NAME}-{name}"})
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    text = TEXT_ENCODER | {"vocab_size": _vocab_size()} | dict(numbers["text_encoder"])
    _write_json(folder / "text_encoder" / "config.json", text)
    transformer = TRANSFORMER | dict(numbers["transformer"]) | {"text_dim": text["d_model"]}
    _write_json(folder / "transformer" / "config.json", transformer)
    _write_json(folder / "vae" / "config.json", VAE | dict(numbers["vae"]))


def _tensors(network: HasSlots) -> dict[str, Tensor]:
    tensors = {name: slot.contiguous() for name, slot in network.checkpoint_slots().items()}
    if "decoder.conv_out.weight" in tensors:
        tensors["decoder.conv_out.weight"] = tensors["decoder.conv_out.weight"] * OUTPUT_GAIN
    return {name: tensors[name].clone() for name in sorted(tensors)}


def _save(folder: Path, stem: str, tensors: dict[str, Tensor], shard_bytes: int) -> None:
    """One file, or shards of at most `shard_bytes` (a larger tensor has one of its own) with an index.

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
    (folder / "tokenizer.json").write_bytes(files("ringlight.models.wan").joinpath(TOKENIZER).read_bytes())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    _write_json(folder / "tokenizer_config.json", config | special | {"additional_special_tokens": []})


def _vocab_size() -> int:
    encoded = files("ringlight.models.wan").joinpath(TOKENIZER).read_text(encoding="utf-8")
    size: int = Tokenizer.from_str(encoded).get_vocab_size()
    return size


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _ramp(low: float, high: float, count: int) -> list[float]:
    return [round(low + (high - low) * i / (count - 1), 4) for i in range(count)]


MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "boundary_ratio": None,
    "expand_timesteps": True,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}

TRANSFORMER = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": DIFFUSERS_VERSION,
    "added_kv_proj_dim": None,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 48,
    "out_channels": 48,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
}

VAE = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": DIFFUSERS_VERSION,
    "attn_scales": [],
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "in_channels": 12,
    "is_residual": True,
    "latents_mean": _ramp(-0.4, 0.4, 48),
    "latents_std": _ramp(0.5, 1.5, 48),
    "num_res_blocks": 2,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "temperal_downsample": [False, True, True],
    "z_dim": 48,
}

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

SCHEDULER = {
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


if __name__ == "__main__":
    folder, size, seed, shard_megabytes = sys.argv[1:]
    write_demo_checkpoint(Path(folder), size, int(seed), int(shard_megabytes) * 2**20)
