"""Description of an answer's field, and whether our server always sends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Meta


def described(
    description: str | None = None,
    *,
    always: bool = False,
    examples: Sequence[Any] = (),
    ge: float | None = None,
    le: float | None = None,
) -> Meta:
    """Describe a field of an answer. `always`: our server never sends null, and another one may leave it out."""
    return Meta(description=description, examples=[*examples] or None, ge=ge, le=le, extra={"always": always})


ALWAYS = described(always=True)
