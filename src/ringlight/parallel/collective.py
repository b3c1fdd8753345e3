"""A mark on functions that ranks have to call together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def collective(function: Function) -> Function:
    """Mark a function that all ranks of its group, or of its axis, call at the same point; one alone would wait.

    Changes nothing. A function that calls such a one whatever happens is such a one too (tests/house).
    """
    function.is_collective = True  # type: ignore[attr-defined]
    return function
