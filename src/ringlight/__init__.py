"""Ringlight: diffusion video, one generation over many GPUs.

`Engine` and the types it takes are the public Python interface; nothing here imports torch.
"""

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
