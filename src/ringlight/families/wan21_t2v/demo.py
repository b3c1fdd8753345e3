"""The demo checkpoints of Wan2.1-T2V. Run as `python -m ringlight.families.wan21_t2v.demo`."""

from __future__ import annotations

from typing import Any

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

NUM_CHANNELS = 16

SIZES: dict[str, dict[str, dict[str, Any]]] = {
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

TRANSFORMER = demo.TRANSFORMER | {"in_channels": NUM_CHANNELS, "out_channels": NUM_CHANNELS}

# As the published files are: in_channels, is_residual, patch_size and scales are left to their defaults.
VAE = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": demo.DIFFUSERS_VERSION,
    "attn_scales": [],
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": demo.ramp(-0.4, 0.4, NUM_CHANNELS),
    "latents_std": demo.ramp(0.5, 1.5, NUM_CHANNELS),
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": NUM_CHANNELS,
}

DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-wan21",
    sizes=SIZES,
    index=demo.MODEL_INDEX,
    transformer=TRANSFORMER,
    vae=VAE,
    scheduler=demo.SCHEDULER | {"flow_shift": 3.0},
)

if __name__ == "__main__":
    DEMO.run()
