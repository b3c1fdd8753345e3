"""Fields of an order for a video, beside what it shows: declared once, for the server's calls and flags."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ringlight.core.fields import JOBS, setting, settings_of
from ringlight.core.settings import LEAST_PRIORITY, MOST_PRIORITY


class OrderFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of an order beside the video's own; None is left out."""

    user: Annotated[
        str | None,
        setting("Free text that stands in every answer about this video, for instance whom you make it for.", JOBS),
    ] = None
    priority: Annotated[
        int | None,
        setting(
            f"{LEAST_PRIORITY} to {MOST_PRIORITY}: higher is made first, among equals as --scheduling says. Left out "
            "it is 0, in a batch as that has it.",
            JOBS,
        ),
    ] = None
    timeout_seconds: Annotated[
        float | None,
        setting(
            "The video fails with deadline_exceeded if it is not completed so many seconds after its creation.", JOBS
        ),
    ] = None
    webhook_url: Annotated[
        str | None,
        setting(
            "Is called when the video is completed or has failed, if the operator allows its host.", JOBS, metavar="URL"
        ),
    ] = None


HELP = {field.name: field.meta.description for field in settings_of(OrderFields)}
