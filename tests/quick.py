"""Which of many alike cases the quick part of the tests has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_quick(cases: Iterable[Any]) -> list[Any]:
    """Parameters of a test: the first of them stands for all in the quick part. A tuple is several parameters."""
    first, *others = cases
    return [
        pytest.param(*_as_tuple(first)),
        *(pytest.param(*_as_tuple(each), marks=pytest.mark.slow) for each in others),
    ]


def _as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
