"""Numbers in sentences, and sizes as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNITS = {"": 1, "B": 1} | {
    f"{letter}{binary}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for binary, base in (("", 1000), ("i", 1024))
}
SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def bytes_of(text: str) -> int:
    """Read a size such as 10GiB, 9.5 GB or 4000000000. Raises ValueError."""
    match = SIZE.fullmatch(text)
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is no size such as 10GiB or 9.5GB")
    return int(float(match[1]) * units[match[2].lower()])


def in_words(items: Iterable[str]) -> str:
    """Join items, of which there is one at least, as in a sentence: a, b and c."""
    *others, final = items
    return f"{', '.join(others)} and {final}" if others else final


def counted(number: int, noun: str) -> str:
    """Number with its noun: 1 video, 3 videos."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def coded(code: str, message: str) -> str:
    """Code and message of an error, once if they are the same."""
    return code if message in ("", code) else f"{code}: {message}"


def plain(number: float, digits: int = 6) -> str:
    """A number as people write it: 3000, 0.25 or 1234567, with so many significant digits and never an exponent."""
    text = f"{number:.{digits}g}"
    if "e" not in text:
        return text
    return f"{number:.0f}" if abs(number) >= 1 else f"{number:.12f}".rstrip("0").rstrip(".")
