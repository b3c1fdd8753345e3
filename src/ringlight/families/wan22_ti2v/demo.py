"""The demo checkpoints of Wan2.2-TI2V. Run as `python -m ringlight.families.wan22_ti2v.demo`."""

from __future__ import annotations

from typing import Any

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

NUM_CHANNELS = 48

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

MODEL_INDEX = demo.MODEL_INDEX | {"boundary_ratio": None, "expand_timesteps": True, "transformer_2": [None, None]}

TRANSFORMER = demo.TRANSFORMER | {"in_channels": NUM_CHANNELS, "out_channels": NUM_CHANNELS}

VAE = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": demo.DIFFUSERS_VERSION,
    "attn_scales": [],
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "in_channels": 12,
    "is_residual": True,
    "latents_mean": demo.ramp(-0.4, 0.4, NUM_CHANNELS),
    "latents_std": demo.ramp(0.5, 1.5, NUM_CHANNELS),
    "num_res_blocks": 2,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "temperal_downsample": [False, True, True],
    "z_dim": NUM_CHANNELS,
}

DEMO = demo.DemoModel(
    name=DEMO_NAME, sizes=SIZES, index=MODEL_INDEX, transformer=TRANSFORMER, vae=VAE, scheduler=demo.SCHEDULER
)

if __name__ == "__main__":
    DEMO.run()
