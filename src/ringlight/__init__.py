"""Ringlight: diffusion video, one generation over many GPUs.

`Engine` makes videos in processes of its own, `Client` has a server make them; they and the types that they take and
give are the public Python interface. Nothing here imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringlight.client import ApiError, Client, Unreachable
    from ringlight.core.config import EngineConfig, NodesConfig
    from ringlight.core.errors import RinglightError
    from ringlight.core.layout import AskedLayout, ParallelLayout
    from ringlight.core.report import RunReport
    from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
    from ringlight.engine.engine import Engine
    from ringlight.engine.job_state import JobState
    from ringlight.engine.jobs import Job, Keep, Submission

__version__ = "0.1.0"
__all__ = [
    "ApiError",
    "AskedLayout",
    "Client",
    "Engine",
    "EngineConfig",
    "Job",
    "JobState",
    "Keep",
    "NodesConfig",
    "ParallelLayout",
    "RequestDefaults",
    "RequestLimits",
    "RinglightError",
    "RunReport",
    "Submission",
    "Unreachable",
    "VideoRequest",
    "__version__",
]

PLACES = {
    "ApiError": "client",
    "AskedLayout": "core.layout",
    "Client": "client",
    "Engine": "engine.engine",
    "EngineConfig": "core.config",
    "Job": "engine.jobs",
    "JobState": "engine.jobs",
    "Keep": "engine.jobs",
    "NodesConfig": "core.config",
    "ParallelLayout": "core.layout",
    "RequestDefaults": "core.request",
    "RequestLimits": "core.request",
    "RinglightError": "core.errors",
    "RunReport": "core.report",
    "Submission": "engine.jobs",
    "Unreachable": "client",
    "VideoRequest": "core.request",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `ringlight doctor` has to run where a package that these need is broken."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
