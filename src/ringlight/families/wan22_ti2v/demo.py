"""The demo checkpoints of Wan2.2-TI2V. Run as `python -m ringlight.families.wan22_ti2v.demo`."""

from __future__ import annotations

from typing import Any

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan.demo import DIFFUSERS_VERSION, SCHEDULER, DemoModel, ramp

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
    "latents_mean": ramp(-0.4, 0.4, 48),
    "latents_std": ramp(0.5, 1.5, 48),
    "num_res_blocks": 2,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "temperal_downsample": [False, True, True],
    "z_dim": 48,
}

DEMO = DemoModel(name=DEMO_NAME, sizes=SIZES, index=MODEL_INDEX, transformer=TRANSFORMER, vae=VAE, scheduler=SCHEDULER)

if __name__ == "__main__":
    DEMO.run()
