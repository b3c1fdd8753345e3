"""The built-in card of Wan2.2-TI2V-5B: the numbers of its config.json files, for planning without a checkpoint."""

from __future__ import annotations

from ringlight.core.spec import ModelSpec, SchedulerSpec, TextEncoderSpec, TransformerSpec, VaeSpec

WAN22_TI2V_5B = ModelSpec(
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
    text_encoder=TextEncoderSpec(d_model=4096, d_ff=10240, num_heads=64, d_kv=64, num_layers=24, vocab_size=256384),
    scheduler=SchedulerSpec(
        config={}, class_name="UniPCMultistepScheduler", flow_shift=5.0, flow_shift_key="flow_shift"
    ),
)
