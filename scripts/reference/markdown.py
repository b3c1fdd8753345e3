"""Markdown that several parts of the docs are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *([each.replace("|", "\\|") for each in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_sentence(text: str) -> str:
    """Text up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[.])\s", " ".join(text.split()), maxsplit=1)[0]


def bounds(low: float | None, high: float | None) -> str:
    """Bounds of a number in words; empty where there are none."""
    if high is None:
        return "" if low is None else f"from {low:g}"
    return f"up to {high:g}" if low is None else f"{low:g} to {high:g}"
