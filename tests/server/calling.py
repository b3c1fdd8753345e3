"""Calls as clients send them, and what becomes of them: read, and drafted for a collection that is not there."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image

from ringlight.core.errors import InvalidLayout, InvalidRequest
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.core.sizes import decide_size
from ringlight.families.model import ModelSpec
from ringlight.server.api.calls import AnyCall, Call, CreateVideo, parse
from ringlight.server.api.drafts import to_draft
from ringlight.server.collection.view import Draft
from ringlight.server.http.body import Body
from ringlight.server.http.http_error import HttpError, to_api_error
from ringlight.server.safety.outbound import Outbound

NOBODY = Outbound((), 1, 10**6)


class Shelf:
    """What to_draft asks of the collection of videos, without one."""

    def __init__(self, spec: ModelSpec, round_sizes: bool = False, **limits: int) -> None:
        self.model_names = ("wan",)
        self.spec = spec
        self.round_sizes = round_sizes
        self.limits = RequestLimits(**limits)
        self.defaults = RequestDefaults(width=64, height=64, num_frames=9)

    def complete(self, prompt: str, *, width: Any, height: Any, picture_size: Any, **fields: Any) -> VideoRequest:
        asked = (width, height)
        width, height = decide_size(asked, picture_size, self.defaults, self.spec, self.limits, self.round_sizes)
        return self.defaults.complete(prompt, self.spec, width=width, height=height, **fields)

    def with_loras(self, request: VideoRequest) -> VideoRequest:
        return request


def body(fields: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> Body:
    return Body(fields=dict(fields), files=dict(files or {}), sha256="")


def read(call: type[AnyCall], /, files: Mapping[str, bytes] | None = None, **fields: Any) -> AnyCall:
    return parse(call, body(fields, files))


def refused(model: type[Call], fields: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> HttpError:
    with pytest.raises(HttpError) as caught:
        parse(model, body(fields, files))
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    return caught.value


def draft(spec: ModelSpec, files: Mapping[str, bytes] | None = None, **fields: Any) -> Draft:
    return asyncio.run(to_draft(read(CreateVideo, prompt="p", **fields), files or {}, Shelf(spec), NOBODY))


def draft_refused(spec: ModelSpec, files: Mapping[str, bytes] | None = None, **fields: Any) -> HttpError:
    with pytest.raises((HttpError, InvalidRequest, InvalidLayout)) as caught:
        draft(spec, files, **fields)
    return to_api_error(caught.value)


def png(width: int = 40, height: int = 30, mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
