"""The demo checkpoints of Wan2.1-T2V. Run as `python -m ringlight.families.wan21_t2v.demo`."""

from __future__ import annotations

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-wan21",
    sizes=demo.SIZES_21,
    index=demo.MODEL_INDEX,
    transformer=demo.TRANSFORMER | {"in_channels": 16, "out_channels": 16},
    vae=demo.VAE_21,
    scheduler=demo.SCHEDULER | {"flow_shift": 3.0},
)

if __name__ == "__main__":
    DEMO.run()
