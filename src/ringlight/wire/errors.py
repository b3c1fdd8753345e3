"""Answers that are errors, in OpenAI's envelope."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ringlight.wire.described import ALWAYS


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Problem of a request, with its remedy."""

    message: str
    type: Annotated[str | None, ALWAYS] = None
    param: str | None = None
    code: Annotated[str | None, ALWAYS] = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """Every answer that is an error."""

    error: ErrorBody
