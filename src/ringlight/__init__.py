"""Ringlight: diffusion video, one generation over many GPUs.

`Engine` and the types it takes are the public Python interface; nothing here imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringlight.core.config import EngineConfig, NodesConfig
    from ringlight.core.layout import AskedLayout, ParallelLayout
    from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
    from ringlight.engine.engine import Engine

__version__ = "0.1.0"
__all__ = [
    "AskedLayout",
    "Engine",
    "EngineConfig",
    "NodesConfig",
    "ParallelLayout",
    "RequestDefaults",
    "RequestLimits",
    "VideoRequest",
    "__version__",
]

PLACES = {
    "AskedLayout": "core.layout",
    "Engine": "engine.engine",
    "EngineConfig": "core.config",
    "NodesConfig": "core.config",
    "ParallelLayout": "core.layout",
    "RequestDefaults": "core.request",
    "RequestLimits": "core.request",
    "VideoRequest": "core.request",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `ringlight doctor` has to run where a package that these need is broken."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
