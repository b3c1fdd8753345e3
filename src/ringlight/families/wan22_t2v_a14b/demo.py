"""The demo checkpoints of Wan2.2-T2V-A14B. Run as `python -m ringlight.families.wan22_t2v_a14b.demo`."""

from __future__ import annotations

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan import demo

DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-wan22-t2v-a14b",
    sizes=demo.SIZES_21,
    index=demo.MODEL_INDEX | demo.EXPERTS | {"boundary_ratio": 0.875},
    transformer=demo.TRANSFORMER | {"in_channels": 16, "out_channels": 16},
    vae=demo.VAE_21,
    scheduler=demo.SCHEDULER | {"flow_shift": 12.0},
)

if __name__ == "__main__":
    DEMO.run()
