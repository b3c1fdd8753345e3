"""Small requests that tests of the engine share."""

from __future__ import annotations

from typing import Any

from ringlight.core.request import VideoRequest
from ringlight.engine.engine import Engine

SMALL: dict[str, Any] = {
    "width": 32,
    "height": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
    "seed": 7,
    "negative_prompt": "blurry",
}


def small(engine: Engine, prompt: str = "a lighthouse in the fog", **changes: Any) -> VideoRequest:
    """A request of a fraction of a second."""
    return engine.request(prompt, **SMALL | changes)


def endless(engine: Engine, **changes: Any) -> VideoRequest:
    """A request that does not end within a test, unless something ends it."""
    return small(engine, num_inference_steps=1000, width=256, height=160, **changes)
