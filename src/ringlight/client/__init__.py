"""A client of a Ringlight server, for Python. Other clients of OpenAI's Videos API work too."""

from ringlight.client.api_error import ApiError, Unreachable
from ringlight.client.client import Client
from ringlight.client.events import Event, Preview
from ringlight.wire.batch import Batch, BatchCheck
from ringlight.wire.video import Progress, Video, VideoLink

__all__ = [
    "ApiError",
    "Batch",
    "BatchCheck",
    "Client",
    "Event",
    "Preview",
    "Progress",
    "Unreachable",
    "Video",
    "VideoLink",
]
