"""The demo checkpoints of Wan2.2-I2V-A14B. Run as `python -m ringlight.families.wan22_i2v_a14b.demo`."""

from __future__ import annotations

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-wan22-i2v-a14b",
    sizes=demo.SIZES_21,
    index=demo.MODEL_INDEX | demo.EXPERTS | demo.OF_PICTURES | {"boundary_ratio": 0.9},
    transformer=demo.TRANSFORMER | {"in_channels": 36, "out_channels": 16},
    vae=demo.VAE_21,
    scheduler=demo.SCHEDULER,
)

if __name__ == "__main__":
    DEMO.run()
