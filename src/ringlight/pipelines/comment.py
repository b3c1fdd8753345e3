"""The request that made a video, as the comment in its file, so that it can be made again from the file alone."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ringlight.core.request import VideoRequest
from ringlight.core.video_fields import VIDEO_FIELDS

LORA = ("name", "strength", "target")


def comment_of(request: VideoRequest) -> str:
    """Write prompt and fields as JSON under `ringlight`, with nothing of pictures, of who asked, or of the machine."""
    fields: dict[str, Any] = {field.name: getattr(request, field.name) for field in VIDEO_FIELDS}
    fields["lora"] = [{name: getattr(lora, name) for name in LORA} for lora in request.lora] or None
    told = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"ringlight": {"prompt": request.prompt, **msgspec.to_builtins(told)}}, ensure_ascii=False)
