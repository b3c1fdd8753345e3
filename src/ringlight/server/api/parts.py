"""Parts of a server as routes are given them, and who asks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from ringlight.core.errors import NotFound
from ringlight.core.settings import ServeSettings
from ringlight.server.api.watchers import Watchers
from ringlight.server.collection.batches import Batches
from ringlight.server.collection.folder import VIDEO_ID
from ringlight.server.collection.videos import Videos
from ringlight.server.observability.metrics import Metrics
from ringlight.server.observability.tracing import Tracing
from ringlight.server.safety.keys import ApiKeys
from ringlight.server.safety.links import ContentLinks
from ringlight.server.safety.outbound import Outbound
from ringlight.wire.batch import EXAMPLE_BATCH_ID
from ringlight.wire.video import EXAMPLE_ID

NO_IDS = ("characters", "edits", "extensions", "sync")  # what stands in the place of an id in other paths
NO_BATCH_IDS = ("check",)
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
MAX_DECODERS = 2  # pictures and videos that are decoded at a time

bearer = HTTPBearer(auto_error=False, description="An API key, where the server asks for one.")


@dataclass(frozen=True)
class Parts:
    """The parts of one server.

    Pictures of requests are fetched from `image_hosts`, and their ends may be told to `webhook_hosts`. `started_at` is
    in seconds since 1970.
    """

    settings: ServeSettings
    videos: Videos
    batches: Batches
    keys: ApiKeys
    links: ContentLinks
    image_hosts: Outbound
    webhook_hosts: Outbound
    tracing: Tracing | None
    metrics: Metrics
    watchers: Watchers
    started_at: float
    decoders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_DECODERS))


async def parts_of(request: Request) -> Parts:
    """The parts of the server that a request came to."""
    parts: Parts = request.app.state.parts
    return parts


Served = Annotated[Parts, Depends(parts_of)]


Documented = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
"""Says in the API's description that a call takes a key."""


async def owner_of(request: Request, parts: Served, _documented: Documented) -> str:
    """Owner whose videos a request may see. Raises HttpError 401."""
    return parts.keys.identify(request.headers.get("authorization"))


async def checked_id(
    video_id: Annotated[str, Path(description="Id of a video.", examples=[EXAMPLE_ID])],
) -> str:
    """Check the id of a video. Raises NotFound for any other text, and 405 for the name of another thing."""
    if video_id in NO_IDS:
        raise HTTPException(405)
    if VIDEO_ID.fullmatch(video_id) is None:
        raise NotFound(f"there is no video {video_id[:80]!r}")
    return video_id


async def checked_batch_id(
    batch_id: Annotated[str, Path(description="Id of a batch.", examples=[EXAMPLE_BATCH_ID])],
) -> str:
    """Check the id of a batch. Raises NotFound for any other text, and 405 for the name of another thing."""
    if batch_id in NO_BATCH_IDS:
        raise HTTPException(405)
    if BATCH_ID.fullmatch(batch_id) is None:
        raise NotFound(f"there is no batch {batch_id[:80]!r}")
    return batch_id


Owner = Annotated[str, Depends(owner_of)]
BatchId = Annotated[str, Depends(checked_batch_id)]
VideoId = Annotated[str, Depends(checked_id)]
