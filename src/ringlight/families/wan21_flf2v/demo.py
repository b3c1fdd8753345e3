"""The demo checkpoints of Wan2.1-FLF2V. Run as `python -m ringlight.families.wan21_flf2v.demo`."""

from __future__ import annotations

import msgspec

from ringlight.core.config import DEMO_NAME
from ringlight.families.wan21_i2v.demo import DEMO as I2V

DEMO = msgspec.structs.replace(
    I2V,
    name=f"{DEMO_NAME}-wan21-flf2v",
    transformer={**I2V.transformer, "pos_embed_seq_len": 514},
    scheduler={**I2V.scheduler, "flow_shift": 16.0},
)

if __name__ == "__main__":
    DEMO.run()
