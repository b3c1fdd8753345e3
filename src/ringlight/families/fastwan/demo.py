"""The demo checkpoints of FastWan, in the shape of the 5B. Run as `python -m ringlight.families.fastwan.demo`."""

from __future__ import annotations

from typing import Any

from ringlight.core.config import DEMO_NAME
from ringlight.families.fastwan.card import PIPELINES
from ringlight.families.wan import demo
from ringlight.families.wan22_ti2v.demo import MODEL_INDEX, SIZES, TRANSFORMER, VAE


def _without_steps(numbers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Numbers of a checkpoint without its steps, which are the card's."""
    usual = {name: value for name, value in numbers["defaults"].items() if name != "num_inference_steps"}
    return numbers | {"defaults": usual}


DEMO = demo.DemoModel(
    name=f"{DEMO_NAME}-fastwan",
    sizes={size: _without_steps(numbers) for size, numbers in SIZES.items()},
    index=MODEL_INDEX | {"_class_name": PIPELINES[0]},
    transformer=TRANSFORMER,
    vae=VAE,
    scheduler=demo.SCHEDULER,
)

if __name__ == "__main__":
    DEMO.run()
