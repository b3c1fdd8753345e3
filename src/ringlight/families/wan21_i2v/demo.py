"""The demo checkpoints of Wan2.1-I2V. Run as `python -m ringlight.families.wan21_i2v.demo`."""

from __future__ import annotations

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

PARTS = {
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}

DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-wan21-i2v",
    sizes=demo.SIZES_21,
    index=demo.MODEL_INDEX | demo.OF_PICTURES | PARTS,
    transformer=demo.TRANSFORMER | {"in_channels": 36, "out_channels": 16},
    vae=demo.VAE_21,
    scheduler=demo.SCHEDULER | {"flow_shift": 3.0},
    image_encoder=demo.IMAGE_ENCODER,
)

if __name__ == "__main__":
    DEMO.run()
