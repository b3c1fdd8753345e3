"""Numbers in sentences."""

from __future__ import annotations


def plain(number: float, digits: int = 6) -> str:
    """A number as people write it: 3000, 0.25 or 1234567, with so many significant digits and never an exponent."""
    text = f"{number:.{digits}g}"
    if "e" not in text:
        return text
    return f"{number:.0f}" if abs(number) >= 1 else f"{number:.12f}".rstrip("0").rstrip(".")
